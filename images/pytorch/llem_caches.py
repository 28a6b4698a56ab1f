"""Where compilers keep what they made. Standard library only."""

import os
import stat
import tempfile


def set_caches():
    """Gives the compilers a place to write, unless the environment names one. To be called before PyTorch is imported."""
    root = os.path.join(tempfile.gettempdir(), f"llem-{os.getuid()}")
    os.makedirs(root, mode=0o700, exist_ok=True)
    found = os.lstat(root)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        # Compiled code that somebody else can write must not be run.
        root = tempfile.mkdtemp(prefix="llem-")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(root, "torchinductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", os.path.join(root, "triton"))
