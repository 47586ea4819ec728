"""Old checkpoints (.ckpt, .pt, .pth, .bin) to safetensors, without running a line of what they contain.

Such a file is a pickle: a program for a small stack machine whose instructions can import any function and call it.
Here that machine is our own.  It knows the instructions that describe data, and for the few names an honest checkpoint
needs it has inert stand-ins; it imports nothing, so there is nothing to call.  Any other name is refused, by name.
There is no second attempt by another reader, and no switch to load a file anyway.

The work is done in a child process with limits on memory, time and file size, which ends itself at the first import,
connection or process it is made to try.
"""

from __future__ import annotations

import encodings.cp437  # noqa: F401 - for names in zip archives; imported now, because later it would count as an escape
import io
import json
import math
import mmap
import os
import pickletools
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch
from torch import Tensor

from bowerbird import weights
from bowerbird.errors import ModelError, UnsafeFileError

MAX_INSTRUCTIONS = 20_000_000
MAX_PROGRAM_BYTES = 256 * 2**20
MAX_ENTRIES = 1_000_000
MAX_DEPTH = 32
MAX_GROWTH = 8  # times the file's size: tensors that share or repeat storage are written out in full

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STATE_DICTS = ("state_dict", "model_state_dict", "params_ema", "params", "model", "module", "net")


@dataclass(frozen=True)
class Converted:
    """What was written, and the entries that are not tensors and stayed behind."""

    file: Path
    tensors: int
    bytes: int
    left_out: list[str]


def convert(old: Path, new: Path) -> Converted:
    """Write the tensors of the checkpoint `old` to `new` as safetensors, bit for bit.

    UnsafeFileError names what the file asks for beyond data; ModelError says what is damaged or of an unknown format.
    """
    if not old.is_file():
        raise ModelError(f"there is no checkpoint {str(old)!r}.")
    if new.suffix != ".safetensors":
        raise ModelError(f"{str(new)!r} would hold safetensors; let its name end in .safetensors.")
    if new.exists():
        raise ModelError(f"{str(new)!r} exists already and is not overwritten; name another file.")
    child = [sys.executable, "-B", "-m", "bowerbird.convert", str(old.resolve()), str(new.resolve())]
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(child, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        new.with_name(f".tmp-{new.name}").unlink(missing_ok=True)
        raise ModelError(f"{str(old)!r} broke the limits of its reader (exit {done.returncode}); it is refused.") from None
    if "refused" in report:
        raise (UnsafeFileError if report["unsafe"] else ModelError)(f"{str(old)!r} is refused: {report['refused']}")
    return Converted(new, report["tensors"], report["bytes"], report["left_out"])


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of an old checkpoint by name, and the names of entries that are none.  Executes nothing of the file."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise ModelError("the file is empty.")
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                root = _read_zip(file) if view[:4] == b"PK\x03\x04" else _read_legacy(view)
                return _collect(root, budget=MAX_GROWTH * len(view) + 2**20)
        except _DAMAGE as error:
            raise ModelError(f"it is damaged or not a PyTorch checkpoint ({type(error).__name__}: {str(error)[:200]}).") from error


# What reading nonsense can raise in Python, zipfile and PyTorch
_DAMAGE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
)


# What a program may build: inert stand-ins for the names honest checkpoints use


@dataclass(frozen=True)
class Storage:
    """A tensor's memory, named in the program and read from the file."""

    dtype: torch.dtype
    key: str
    numel: int


@dataclass(frozen=True)
class View:
    """A tensor: how it lies in its storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Inert:
    """A value of no use to us, such as a numpy scalar or the name of a training callback."""

    name: str


def _view(storage: Storage, offset: int, size: Any, stride: Any, *_rest: Any) -> View:
    return View(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _view_as(storage: Storage, offset: int, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: torch.dtype, *_rest: Any) -> View:
    """A tensor of a kind younger than typed storages: its memory is told in bytes, and what they are beside it."""
    if storage.dtype is not torch.uint8 or not isinstance(dtype, torch.dtype):
        raise ValueError("a tensor whose memory is not told in bytes")
    typed = replace(storage, dtype=dtype, numel=storage.numel // dtype.itemsize)
    return View(typed, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


_DTYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Long": torch.int64,
    "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip
_YOUNGER_DTYPES = (
    torch.uint16, torch.uint32, torch.uint64,
    torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz,
)  # fmt: skip

Maker = Callable[..., Any]
ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("torch._utils", "_rebuild_tensor"): _view,
    ("torch._utils", "_rebuild_tensor_v3"): _view_as,
    ("torch.storage", "UntypedStorage"): torch.uint8,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_rest: data,
    ("collections", "OrderedDict"): lambda *pairs: dict(*pairs),
    ("torch", "Size"): lambda sizes=(): tuple(sizes),
    ("torch", "device"): lambda *_words: Inert("torch.device"),
    ("builtins", "set"): lambda items=(): set(items),
    ("__builtin__", "set"): lambda items=(): set(items),
    ("_codecs", "encode"): lambda *_text: Inert("bytes"),
    ("numpy", "dtype"): lambda *_words: Inert("numpy.dtype"),
    ("numpy.core.multiarray", "scalar"): lambda *_value: Inert("numpy scalar"),
    ("numpy._core.multiarray", "scalar"): lambda *_value: Inert("numpy scalar"),
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"): Inert("ModelCheckpoint"),
    ("pytorch_lightning.callbacks.early_stopping", "EarlyStopping"): Inert("EarlyStopping"),
    **{("torch", f"{name}Storage"): dtype for name, dtype in _DTYPES.items()},
    **{("torch", str(dtype).removeprefix("torch.")): Inert(str(dtype)) for dtype in _DTYPES.values()},
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in _YOUNGER_DTYPES},
}


# The stack machine


class _Mark:
    """Where a group of values on the stack begins."""


@dataclass
class Machine:
    """Runs one program of data instructions.  `storage` answers the program's references to tensor memory."""

    storage: Callable[[Any], Storage]
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, program: BinaryIO) -> Any:
        for count, (instruction, argument, _position) in enumerate(pickletools.genops(program)):
            if count > MAX_INSTRUCTIONS:
                raise ValueError("more instructions than any checkpoint needs")
            if instruction.name == "STOP":
                return self.stack.pop()
            if instruction.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[instruction.name]())
            elif instruction.name in _LITERALS:
                self.stack.append(argument)
            elif instruction.name in _STEPS:
                _STEPS[instruction.name](self, argument)
            elif instruction.name not in ("PROTO", "FRAME"):
                raise UnsafeFileError(
                    f"it uses the pickle instruction {instruction.name}, which no checkpoint needs and which can run code."
                )
        raise ValueError("the program has no end")

    def group(self) -> list[Any]:
        """The values above the newest mark, taken off the stack with it."""
        for start in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[start], _Mark):
                values = self.stack[start + 1 :]
                del self.stack[start:]
                return values
        raise ValueError("a group without a mark")

    def take(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise ValueError("the stack is empty")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or (module, name) not in ALLOWED:
            raise UnsafeFileError(f"it asks for {f'{module}.{name}'[:200]!r}, which is not data. Ask its maker for safetensors.")
        self.stack.append(ALLOWED[module, name])

    def call(self) -> None:
        make, arguments = self.take(2)
        if make not in _MAKERS or not isinstance(arguments, tuple):
            raise UnsafeFileError("it calls something that is not one of the known builders of data.")
        self.stack.append(make(*arguments))

    def build(self) -> None:
        """State of an object: we build none, so only what inert values and attributes of a state dict carry may come, and is dropped."""
        target, _state = self.stack[-2], self.stack.pop()
        if not isinstance(target, dict | Inert):
            raise UnsafeFileError("it sets the state of something that is not data.")

    def extend(self, values: list[Any]) -> None:
        _of_type(self.stack[-1], list).extend(values)

    def add(self, values: list[Any]) -> None:
        _of_type(self.stack[-1], set).update(values)

    def set_items(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise ValueError("a key without a value")
        _of_type(self.stack[-1], dict).update(zip(values[::2], values[1::2], strict=True))


_MAKERS = [make for make in ALLOWED.values() if callable(make) and not isinstance(make, torch.dtype)]


def _of_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{kind.__name__} expected, {type(value).__name__} found")
    return value


def _dict_of(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(values[::2], values[1::2], strict=True))


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set, "MARK": _Mark,
}  # fmt: skip
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_STEPS: dict[str, Callable[[Machine, Any], Any]] = {
    "GLOBAL": lambda m, words: m.name(*words.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.take(2)),
    "REDUCE": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.stack.append(m.storage(m.stack.pop())),
    "PUT": lambda m, key: m.put(int(key)),
    "BINPUT": lambda m, key: m.put(key),
    "LONG_BINPUT": lambda m, key: m.put(key),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "GET": lambda m, key: m.stack.append(m.memo[int(key)]),
    "BINGET": lambda m, key: m.stack.append(m.memo[key]),
    "LONG_BINGET": lambda m, key: m.stack.append(m.memo[key]),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.group(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.group())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.take(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.take(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.take(3))),
    "LIST": lambda m, _: m.stack.append(m.group()),
    "DICT": lambda m, _: m.stack.append(_dict_of(m.group())),
    "FROZENSET": lambda m, _: m.stack.append(frozenset(m.group())),
    "APPEND": lambda m, _: m.extend(m.take(1)),
    "APPENDS": lambda m, _: m.extend(m.group()),
    "ADDITEMS": lambda m, _: m.add(m.group()),
    "SETITEM": lambda m, _: m.set_items(m.take(2)),
    "SETITEMS": lambda m, _: m.set_items(m.group()),
}


# The two formats


Root = tuple[Any, Callable[[Storage], bytes]]  # what the program built, and how to read a storage


def _read_zip(file: BinaryIO) -> Root:
    """Since PyTorch 1.6: an archive of `data.pkl` and one member for each storage, none compressed."""
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(set(names)) < len(names) or len(names) > MAX_ENTRIES:
        raise ModelError("its archive names a member twice, or has more members than any checkpoint.")
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
        raise ModelError("its archive has compressed or encrypted members, which PyTorch never writes.")
    programs = [name for name in names if name.rpartition("/")[2] == "data.pkl" and name.count("/") <= 1]
    if len(programs) != 1:
        raise ModelError("its archive is no PyTorch checkpoint (no data.pkl).")
    folder = programs[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in names or any(name.startswith(f"{folder}code/") for name in names):
        raise UnsafeFileError("it is a TorchScript program, not a checkpoint.")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise ModelError("its tensors are in big-endian byte order, which is not supported.")
    if archive.getinfo(programs[0]).file_size > MAX_PROGRAM_BYTES:
        raise ModelError("its data.pkl is larger than any checkpoint's.")
    root = Machine(_storage).run(io.BytesIO(archive.read(programs[0])))
    return root, lambda storage: archive.read(f"{folder}data/{storage.key}")


def _read_legacy(view: mmap.mmap) -> Root:
    """Before 1.6: five pickles one after another (magic, version, system, object, storage keys), then the raw storages."""
    none_yet = Machine(_no_storage)
    try:
        magic = none_yet.run(view)  # type: ignore[arg-type]
    except UnsafeFileError:
        raise
    except Exception as error:
        raise ModelError("it is neither a zip archive nor a PyTorch pickle.") from error
    if magic != LEGACY_MAGIC or Machine(_no_storage).run(view) != 1001:  # type: ignore[arg-type]
        raise ModelError("it is a pickle, but not one that PyTorch wrote.")
    Machine(_no_storage).run(view)  # type: ignore[arg-type]  # the system it was written on
    used: dict[str, Storage] = {}

    def storage_of(reference: Any) -> Storage:
        storage = _storage(reference)
        return used.setdefault(storage.key, storage)

    root = Machine(storage_of).run(view)  # type: ignore[arg-type]
    keys = Machine(_no_storage).run(view)  # type: ignore[arg-type]
    places: dict[str, slice] = {}
    for key in _of_type(keys, list):
        storage, position = used[str(key)], view.tell()
        numel = int.from_bytes(view[position : position + 8], "little", signed=True)
        length = numel * storage.dtype.itemsize
        if numel < 0 or position + 8 + length > len(view):
            raise ModelError("it ends before its tensors do.")
        places[storage.key] = slice(position + 8, position + 8 + length)
        view.seek(position + 8 + length)
    return root, lambda storage: view[places[storage.key]]


def _storage(reference: Any) -> Storage:
    """('storage', type, key, device, numel) and in the old format a sixth entry, None: views of storages ended with PyTorch 0.4."""
    kind, dtype, key, _device, numel, *rest = reference
    if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(numel, int) or any(rest):
        raise ValueError("a reference that is not to a storage")
    return Storage(dtype, str(key), numel)


def _no_storage(_reference: Any) -> NoReturn:
    raise ValueError("a storage where none belongs")


# Tensors out of what the program built


def _collect(root: Root, budget: int) -> tuple[dict[str, Tensor], list[str]]:
    built, read_storage = root
    views = {}
    chosen, left_out = _state_dict(built)
    for name, value in _entries(chosen):
        if isinstance(value, View):
            if name in views or name == weights.METADATA:
                why = "two of its tensors would have this name" if name in views else "safetensors keeps this name for itself"
                raise ModelError(f"its tensor {name[:200]!r} cannot be kept: {why}.")
            if value.storage.dtype is torch.complex128:
                raise ModelError(f"its tensor {name[:200]!r} holds complex128 numbers, which safetensors cannot hold.")
            views[name] = value
        else:
            left_out.append(name)
    if not views:
        raise ModelError("it holds no tensors.")
    times_used = Counter(view.storage.key for view in views.values())
    storages: dict[Storage, Tensor] = {}
    tensors = {}
    for name, view in views.items():
        budget -= math.prod(view.size) * view.storage.dtype.itemsize
        if budget < 0:
            raise ModelError("its tensors would be many times larger than the file.")
        if view.storage not in storages:
            storages[view.storage] = _memory(view.storage, read_storage(view.storage))
        tensor = _strided(storages[view.storage], view)
        shared = times_used[view.storage.key] > 1  # safetensors wants each tensor whole and its own
        tensors[name] = tensor.clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()
    return tensors, left_out


def _state_dict(built: Any) -> tuple[Any, list[str]]:
    """The network's own dict among a training run's other entries, and the names of those; else all there is."""
    if isinstance(built, dict) and not any(isinstance(value, View) for value in built.values()):
        for name in _STATE_DICTS:
            if isinstance(built.get(name), dict) and any(isinstance(value, View) for value in built[name].values()):
                return built[name], [str(other) for other in built if other != name]
    return built, []


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Leaves of nested dicts, lists and tuples, with dotted names.  Capped: a few bytes of program can describe a maze without end."""
    queue: list[tuple[str, Any, int]] = [("", value, 0)]
    seen = 0
    while queue:
        name, value, depth = queue.pop()
        seen += 1
        if seen > MAX_ENTRIES or depth > MAX_DEPTH:
            raise ModelError("its entries are nested deeper, or are more, than in any checkpoint.")
        if isinstance(value, dict):
            inner = list(value.items())
        elif isinstance(value, list | tuple):
            inner = list(enumerate(value))
        else:
            yield name, value
            continue
        queue += [(f"{name}.{key}" if name else str(key), child, depth + 1) for key, child in reversed(inner)]


def _memory(storage: Storage, data: bytes) -> Tensor:
    if len(data) < storage.numel * storage.dtype.itemsize:
        raise ModelError("it ends before its tensors do.")
    if not len(data):
        return torch.empty(0, dtype=storage.dtype)
    return torch.frombuffer(bytearray(data), dtype=storage.dtype)


def _strided(memory: Tensor, view: View) -> Tensor:
    if len(view.size) != len(view.stride) or len(view.size) > 16 or min((view.offset, *view.size, *view.stride)) < 0:
        raise ModelError("it describes a tensor that cannot be.")
    last = view.offset + sum((size - 1) * stride for size, stride in zip(view.size, view.stride, strict=True))
    if math.prod(view.size) and last >= memory.numel():
        raise ModelError("it describes a tensor beyond its storage.")
    return memory.as_strided(view.size, view.stride, view.offset)


# The child process


def main(old: Path, new: Path) -> None:
    """Convert under limits and print a JSON report; the parent reads nothing else of this process."""
    torch.set_num_threads(1)
    _warm_up()
    _limit(old.stat().st_size)
    try:
        tensors, left_out = read_checkpoint(old)
        weights.save_as_is(new, tensors)
        report: dict[str, Any] = {"tensors": len(tensors), "bytes": new.stat().st_size, "left_out": left_out[:1000]}
    except ModelError as error:
        report = {"refused": str(error), "unsafe": isinstance(error, UnsafeFileError)}
    print(json.dumps(report))


def _warm_up() -> None:
    """Convert a file of our own first: whatever the libraries import late is imported before the door is shut."""
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder, "old.pt")
        torch.save({"x": torch.zeros(2, 2).T}, old)
        weights.save_as_is(Path(folder, "new.safetensors"), read_checkpoint(old)[0])


def _limit(file_bytes: int) -> None:
    """Memory, time and file size in proportion to the checkpoint; no import, connection or process from here on."""
    if os.name == "posix":
        import resource

        most = 16 * 2**30 + 2 * MAX_GROWTH * file_bytes  # address space: PyTorch's libraries alone map several GiB
        for what, amount in (
            (resource.RLIMIT_AS, most),
            (resource.RLIMIT_CPU, 120 + file_bytes // 10_000_000),
            (resource.RLIMIT_FSIZE, MAX_GROWTH * file_bytes + 2**24),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(what, (amount, amount))
    sys.addaudithook(_end_on_escape)


def _end_on_escape(event: str, _arguments: tuple[Any, ...]) -> None:
    if event == "import" or event.startswith(("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "ctypes.")):
        os._exit(3)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
