"""Pure decisions and transforms on text or on an Arrow batch: no Beam, no I/O."""
