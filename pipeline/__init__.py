"""The Beam stages, the manifest, the build that reads like the paper's section 2, the command line, the report."""
