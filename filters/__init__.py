"""Pure decisions and transforms on text or on an Arrow batch: no Beam, no I/O.

Compiled kernels are cached on disk by numba, which looks only at the file of a kernel itself, not at the modules that
it takes functions from. So the cache's folder is named by the source of all of them.
"""

import hashlib
import os
import sys
import tempfile
from pathlib import Path


def _kernel_cache() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    name = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    home = os.environ.get("HEADRACE_CACHE") or Path.home() / ".cache" / "headrace"
    folder = Path(home) / "numba" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"headrace-numba-{os.getuid()}-{name}"
    return str(folder)


if "NUMBA_CACHE_DIR" not in os.environ:
    os.environ["NUMBA_CACHE_DIR"] = _kernel_cache()
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]
