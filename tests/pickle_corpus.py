"""Checkpoints to convert and files to refuse: the corpus behind `bowerbird convert`.

Hostile programs are assembled instruction by instruction, because an honest pickler would not write most of them.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

# Ways to run something, by module and name; what public collections of malicious models and bypasses of scanners have used
_NAMES = """
    os.system posix.system nt.system os.popen os.execv os.remove os.putenv subprocess.Popen subprocess.check_output subprocess.run
    builtins.eval builtins.exec builtins.compile builtins.__import__ builtins.getattr builtins.setattr builtins.open builtins.breakpoint
    __builtin__.eval __builtin__.getattr __builtin__.file commands.getoutput socket.create_connection urllib.request.urlopen
    http.client.HTTPConnection ftplib.FTP smtplib.SMTP xmlrpc.client.ServerProxy webbrowser.open shutil.rmtree shutil.copyfile
    runpy.run_path runpy._run_code importlib.import_module importlib.util.module_from_spec imp.load_source pickle.loads _pickle.loads
    torch.load torch.storage._load_from_bytes torch.hub.load torch.jit.load torch.package.PackageImporter torch.ops.load_library
    torch.utils.cpp_extension.load torch.serialization.load torch.fx.graph_module.reduce_graph_module numpy.load numpy.fromfile
    numpy.testing._private.utils.runstring code.InteractiveInterpreter pdb.run bdb.Bdb cProfile.run profile.run timeit.timeit trace.Trace
    pip.main pip._internal.main ctypes.CDLL ctypes.util.find_library marshal.loads types.FunctionType types.CodeType operator.attrgetter
    operator.methodcaller functools.partial functools.reduce asyncio.create_subprocess_shell multiprocessing.Process pty.spawn
    platform.popen distutils.file_util.write_file distutils.spawn.spawn logging.config.listen sqlite3.connect tempfile.mktemp
    ensurepip._run_pip doctest.debug_script unittest.main zipimport.zipimporter site.main venv.create aiohttp.request
    keras.models.load_model joblib.load dill.loads cloudpickle.loads transformers.AutoModel.from_pretrained diffusers.utils.load_image
    yaml.load pathlib.Path.unlink
    """
DANGEROUS = [name.rsplit(".", 1) for name in _NAMES.split()]


# Instructions


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def by_global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def by_stack(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def forms(module: str, name: str, argument: str) -> dict[str, bytes]:
    """The instructions by which a pickle can get hold of a name and use it."""
    words, what = text(argument), by_global(module, name)
    return {
        "reduce": b"\x80\x02" + what + words + b"\x85R.",
        "stack-global": b"\x80\x04" + by_stack(module, name) + words + b"\x85R.",
        "inst": b"(" + words + f"i{module}\n{name}\n".encode() + b".",
        "obj": b"(" + what + words + b"o.",
        "newobj": b"\x80\x02" + what + words + b"\x85\x81.",
        "newobj-ex": b"\x80\x04" + what + words + b"\x85}\x92.",
        "in a state dict": b"\x80\x02}" + text("state_dict") + b"}" + text("x") + what + words + b"\x85Rss.",
        "through the memo": b"\x80\x02" + what + b"q\x05" + b"0" + b"h\x05" + words + b"\x85R.",
        "only named": b"\x80\x02}" + text("x") + what + b"s.",
    }


def as_zip(program: bytes, extra: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in {"archive/data.pkl": program, "archive/version": b"3\n", **(extra or {})}.items():
            archive.writestr(name, data)
    return file.getvalue()


def as_legacy(program: bytes) -> bytes:
    header = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
    return b"".join(pickle.dumps(part, 2) for part in header) + program + pickle.dumps([], 2)


def hostile(canary: Path) -> Iterator[tuple[str, bytes]]:
    """More than 300 files, each with a name; run by a real unpickler, most would touch `canary`."""
    command = f"touch {canary}"
    for number, (module, name) in enumerate(DANGEROUS):
        kinds = list(forms(module, name, command).items())
        for form, program in kinds[number % 3 :: 3]:
            yield f"{module}.{name} {form} (zip)", as_zip(program)
        yield f"{module}.{name} (old format)", as_legacy(kinds[number % len(kinds)][1])
    run = forms("os", "system", command)["reduce"]
    yield from {
        "bare program": run,
        "after an honest one": pickle.dumps({"x": 1}, 2) + run,
        "in place of the magic number": run + as_legacy(b"\x80\x02}."),
        "in place of the storage keys": as_legacy(b"\x80\x02}.").removesuffix(pickle.dumps([], 2)) + run,
        "dotted name": as_zip(by_stack("torch", "_utils._rebuild_tensor_v2.__globals__") + b"."),
        "dotted allowed name": as_zip(by_stack("collections", "OrderedDict.__init__.__globals__") + b"."),
        "name with a space": as_zip(b"cos\nsystem extra\n."),
        "module that is no text": as_zip(b"K\x01K\x02\x93."),
        "extension 1": as_zip(b"\x82\x01."),
        "extension 2": as_zip(b"\x83\x01\x00."),
        "extension 4": as_zip(b"\x84\x01\x00\x00\x00."),
        "persistent id as text": as_zip(b"Pstorage\n."),
        "buffers out of band": as_zip(b"\x97."),
        "read-only buffer": as_zip(b"\x97\x98."),
        "byte array": as_zip(b"\x96" + struct.pack("<Q", 2**40) + b"."),
        "calls a type of storage": as_zip(by_global("torch", "FloatStorage") + text("/etc/passwd") + b"\x85R."),
        "calls a callback": as_zip(by_global("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint") + b")R."),
        "calls a text": as_zip(text("os.system") + text(command) + b"\x85R."),
        "state of a list": as_zip(b"]" + text("x") + b"b."),
        "state of a tensor": as_zip(by_global("torch._utils", "_rebuild_tensor_v2") + b"b."),
        "tensor of a text": as_zip(by_global("torch._utils", "_rebuild_tensor_v2") + text("x") + b"K\x00)))tR."),
        "tensor larger than its storage": as_zip(tensor_program(numel=4, size=(1000,), stride=(1,)), {"archive/data/0": bytes(16)}),
        "tensor before its storage": as_zip(tensor_program(numel=4, size=(2,), stride=(1,), offset=-8), {"archive/data/0": bytes(16)}),
        "negative stride": as_zip(tensor_program(numel=4, size=(2,), stride=(-1,)), {"archive/data/0": bytes(16)}),
        "a terabyte of repetition": as_zip(tensor_program(numel=1, size=(2**38,), stride=(0,)), {"archive/data/0": bytes(4)}),
        "storage that is not there": as_zip(tensor_program(numel=4, size=(4,), stride=(1,))),
        "storage cut short": as_zip(tensor_program(numel=4, size=(4,), stride=(1,)), {"archive/data/0": bytes(7)}),
        "storage outside the archive": as_zip(tensor_program(numel=4, size=(4,), stride=(1,), key="../../etc/passwd")),
        "storage of no kind": as_zip(b"(" + text("storage") + text("float") + text("0") + text("cpu") + b"K\x01tQ."),
        "a maze of ten lists": as_zip(_maze()),
        "a list in itself": as_zip(b"]q\x00h\x00a."),
        "a dict in itself": as_zip(b"}q\x00" + text("x") + b"h\x00s."),
        "key that cannot be one": as_zip(b"}]K\x01s."),
        "key without a value": as_zip(b"}(K\x01u."),
        "memo never written": as_zip(b"h\x09."),
        "empty stack": as_zip(b"."),
        "no end": as_zip(b"}"),
        "no mark": as_zip(b"t."),
        "text longer than the file": as_zip(b"X\xff\xff\xff\x7fabc."),
        "text of 2^63 bytes": as_zip(b"\x8d" + struct.pack("<Q", 2**63 - 1) + b"."),
        "number of a million digits": as_zip(b"I" + b"9" * 1_000_000 + b"\n."),
        "torchscript": as_zip(b"}.", {"archive/constants.pkl": b"}.", "archive/code/__torch__.py": b"import os"}),
        "compressed": as_zip(b"}." + bytes(10**6), compression=zipfile.ZIP_DEFLATED),
        "two programs": as_zip(b"}.", {"other/data.pkl": run}),
        "program twice": _twice(b"}.", run),
        "wrong checksum": _broken(as_zip(tensor_program(numel=4, size=(4,), stride=(1,)), {"archive/data/0": bytes(16)})),
        "directory cut off": as_zip(b"}.")[:-10],
        "7z": b"7z\xbc\xaf\x27\x1c" + bytes(100),
        "tar": _tar(run),
        "gzip": b"\x1f\x8b\x08" + bytes(100),
        "html": b"<html><body>404</body></html>",
        "empty": b"",
        "one byte": b"\x80",
        "big-endian": as_zip(b"}.", {"archive/byteorder": b"big"}),
        "no tensors": as_zip(b"}" + text("x") + b"K\x01s."),
    }.items()


def tensor_program(numel: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, key: str = "0") -> bytes:
    def number(value: int) -> bytes:
        data = value.to_bytes(8, "little", signed=True)
        return b"\x8a\x08" + data

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    reference = b"(" + text("storage") + by_global("torch", "FloatStorage") + text(key) + text("cpu") + number(numel) + b"tQ"
    arguments = b"(" + reference + number(offset) + numbers(size) + numbers(stride) + b"\x89" + b"}" + b"t"
    return b"\x80\x02}" + text("x") + by_global("torch._utils", "_rebuild_tensor_v2") + arguments + b"Rs."


def _maze() -> bytes:
    """Thirty levels of ten references to the level below: 10^30 leaves in a few hundred bytes."""
    program = b"]" + text("x") + b"a" + b"q\x00"
    for level in range(30):
        program += b"](" + bytes([ord("h"), level]) * 10 + b"e" + bytes([ord("q"), level + 1])
    return program + b"."


def _twice(first: bytes, second: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", first)
        archive.writestr("archive/data.pkj", second)
    return file.getvalue().replace(b"data.pkj", b"data.pkl")


def _broken(archive: bytes) -> bytes:
    return archive.replace(bytes(16), bytes(15) + b"\x01", 1)


def _tar(program: bytes) -> bytes:
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("pickle")
        member.size = len(program)
        archive.addfile(member, io.BytesIO(program))
    return file.getvalue()


# Honest checkpoints


def honest(folder: Path) -> Iterator[tuple[Path, dict[str, Tensor]]]:
    """Forty old checkpoints as training programs leave them, with the tensors they should become."""
    torch.manual_seed(0)
    for name, (saved, expected) in _honest().items():
        for new_format in (True, False):
            path = folder / f"{name}-{'zip' if new_format else 'legacy'}.ckpt"
            torch.save(saved, path, _use_new_zipfile_serialization=new_format)
            yield path, expected


def _honest() -> dict[str, tuple[object, dict[str, Tensor]]]:
    plain = {"conv.weight": torch.randn(4, 3, 3, 3), "conv.bias": torch.randn(4), "position_ids": torch.arange(77)[None]}
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in plain.items()}
    brain = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in plain.items()}
    kinds = {
        str(dtype): torch.ones(3, 2).to(dtype) for dtype in (torch.float64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    }
    base = torch.randn(6, 8)
    strided = {"transposed": base.T, "part": base[1:4, ::2], "repeated": torch.randn(1, 5).expand(4, 5), "whole": base}
    shared = {"first": base, "second": base, "head": base[0]}
    odd = {"nan": torch.tensor([float("nan"), float("inf"), -0.0]), "scalar": torch.tensor(3.5), "empty": torch.empty(0, 4)}
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    state = OrderedDict(network.state_dict())
    parameter = torch.nn.Parameter(torch.randn(3))
    ema = {**{f"model.{n}": t for n, t in plain.items()}, **{f"model_ema.{n.replace('.', '')}": t * 0.9 for n, t in plain.items()}}
    lightning = {
        "epoch": 3, "global_step": 470_000, "pytorch-lightning_version": "1.4.2", "state_dict": plain,
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"_last_lr": [1e-4], "base_lrs": [1e-4]}], "hparams": OrderedDict(size=512, name="ldm"), "loops": None,
        "callbacks": {"ModelCheckpoint": {"best": None, "dirpath": "/somewhere"}},
    }  # fmt: skip
    token, vectors = torch.tensor(265), torch.randn(2, 768)
    embedding = {"string_to_token": {"*": token}, "string_to_param": {"*": vectors}, "name": "birds", "step": 500}
    return {
        "plain": (plain, plain),
        "half": (half, half),
        "bfloat16": (brain, brain),
        "kinds": (kinds, kinds),
        "strided": (strided, strided),
        "shared": (shared, shared),
        "odd": (odd, odd),
        "ordered": (state, dict(state)),
        "state_dict": ({"state_dict": plain, "epoch": 1}, plain),
        "model": ({"model": plain, "optimizer": optimizer.state_dict(), "args": {"lr": 0.1}}, plain),
        "params_ema": ({"params_ema": plain, "params": half}, plain),
        "module": ({"module": OrderedDict(plain), "best": 0.5}, plain),
        "lightning": (lightning, plain),
        "ema": ({"state_dict": ema}, ema),
        "parameter": ({"weight": parameter}, {"weight": parameter.data}),
        "embedding": (embedding, {"string_to_token.*": token, "string_to_param.*": vectors}),
        "learned": ({"<bird>": plain["conv.bias"]}, {"<bird>": plain["conv.bias"]}),
        "sizes": ({"x": base, "shape": base.shape, "kind": torch.float16, "device": torch.device("cpu")}, {"x": base}),
        "list": ([base, plain["conv.bias"]], {"0": base, "1": plain["conv.bias"]}),
        "unicode": ({"größe.重み": base, "note": "naïve", "tags": {"a", "b"}, "big": 2**70, "raw": b"\x00\xff"}, {"größe.重み": base}),
    }
