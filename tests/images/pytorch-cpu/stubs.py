"""Takes CUDA out of an unpacked PyTorch: usage `stubs.py TORCH_DIR`. Needs gcc, nm and readelf.

PyTorch's own libraries for the processor stay as they are. Every library that they name and that is not there is made, with every symbol
that nobody else has: functions say that there is no device or, where that cannot be, stop the program with an illegal instruction."""

import pathlib
import re
import subprocess
import sys

CUDA = ["libtorch_cuda.so", "libtorch_cuda_linalg.so", "libc10_cuda.so", "libtorch_nvshmem.so", "libcaffe2_nvrtc.so"]
SYSTEM = re.compile(r"(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|ld-linux-x86-64)\.so")

# What is called while torch is imported; all else is not reached without a device.
SPECIAL = {
    "_ZN3c104cuda12device_countEv": "xor %eax, %eax; ret",
    "_ZN3c104cuda14current_deviceEv": "xor %eax, %eax; ret",
    "_ZN3c104cuda17hasPrimaryContextEa": "xor %eax, %eax; ret",
    # A default argument, made at import: zeros with the virtual table of its base class.
    "_ZN4c10d16ProcessGroupNCCL7OptionsC1Eb": "mov %rdi, %rdx; xor %eax, %eax; mov $16, %ecx; rep stosq; "
    "mov _ZTVN4c10d7Backend7OptionsE@GOTPCREL(%rip), %rax; add $16, %rax; mov %rax, (%rdx); ret",
    # Returns the place of a pointer.
    "_ZN4c10d15get_gil_checkerEv": "lea zeros(%rip), %rax; ret",
}
PREFIXES = {"cuda": "mov $100, %eax; ret", "cupti": "mov $15, %eax; ret"}  # cudaErrorNoDevice, CUPTI_ERROR_NOT_INITIALIZED
DATA = ("_ZTV", "_ZN3c104cuda20CUDACachingAllocator9allocatorE")


def lines(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def symbols(library):
    """Symbols that a library wants, with the name of the library that it wants them from if it says so, and those that it has."""
    wanted, has = {}, set()
    for line in lines("nm", "-D", str(library)):
        *_, kind, name = line.split()
        name, _, origin = name.replace("@@", "@").partition("@")
        if kind == "U":
            wanted[name] = origin
        elif kind not in "wv":
            has.add(name)
    return wanted, has


def assembly(name):
    """A symbol's definition."""
    if name.startswith("_ZTI"):
        text = f'.quad _ZTVN10__cxxabiv117__class_type_infoE+16, 1f; 1: .string "{name[4:]}"'
        return f'.section .data.rel.local, "aw"; .balign 8; .globl {name}; .type {name}, @object; {name}: {text}'
    if name.startswith(DATA):
        return f".data; .balign 8; .globl {name}; .type {name}, @object; {name}: .zero 512"
    code = SPECIAL.get(name) or next((code for prefix, code in PREFIXES.items() if name.startswith(prefix)), "ud2")
    return f".text; .globl {name}; .type {name}, @function; {name}: {code}"


def make(path, names, versioned):
    """A shared library of that name with those symbols."""
    source, versions = path.with_suffix(".s"), path.with_suffix(".map")
    parts = [".data; .balign 8; zeros: .zero 64", *map(assembly, sorted(names)), '.section .note.GNU-stack, "", @progbits']
    source.write_text("\n".join(parts) + "\n")
    command = ["gcc", "-shared", "-nostdlib", "-s", f"-Wl,-soname,{path.name}", "-o", str(path), str(source)]
    if versioned:
        versions.write_text(f"{path.name} {{ global: *; }};\n")
        command.append(f"-Wl,--version-script={versions}")
    subprocess.run(command, check=True)
    source.unlink()
    versions.unlink(missing_ok=True)


def main():
    torch = pathlib.Path(sys.argv[1])
    for name in CUDA:
        (torch / "lib" / name).unlink(missing_ok=True)
    libraries = [*(torch / "lib").glob("*.so*"), *torch.glob("_C.*.so")]
    wanted, has, needed = {}, set(), set()
    for library in libraries:
        its_wanted, its_own = symbols(library)
        for name, origin in its_wanted.items():
            wanted.setdefault(name, set()).add(origin)
        has |= its_own
        needed |= set(re.findall(r"NEEDED.*\[(.+?)\]", "\n".join(lines("readelf", "-d", str(library)))))
    for name in filter(SYSTEM.match, needed):
        has |= symbols(lines("gcc", f"-print-file-name={name}")[0])[1]
    missing = {name: origins for name, origins in wanted.items() if name not in has and not re.match("_?_?Py", name)}
    absent = sorted(name for name in needed - {library.name for library in libraries} if not SYSTEM.match(name))
    for library in absent:
        versioned = {name for name, origins in missing.items() if library in origins}
        # What names no library goes where PyTorch's own code for CUDA was.
        plain = {name for name, origins in missing.items() if origins == {""}} if library == CUDA[0] else set()
        make(torch / "lib" / library, versioned | plain, bool(versioned))


main()
