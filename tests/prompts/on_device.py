"""`python -m tests.prompts.on_device [--device cpu] [PART …]`: values of torch, CuPy, JAX and Numba that
lie on an NVIDIA GPU (or where `--device` says), beside the same ones of the host.

Prints a line a row, ends with 1 if any does not hold. A part whose library is not there does not hold;
rows that only a GPU can show are said with `--device cpu`, and not tried. No part of CI: its machines
have no GPU, and the libraries take gigabytes.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bgmagic
from bgmagic.errors import BadInput
from bgmagic.prompts.to_text import to_text
from tests.support.kernels import kernel
from tests.support.scripted import ScriptedServer

Check = Callable[[], str]
AT = "cuda"  # where the values lie
KEY = {"OPENAI_API_KEY": "sk-test-0123456789"}
# What 0.1, -0.0, 1.5 and 300 are in each type of torch.
OF_TORCH = {
    "float64": "[0.10000000149011612,-0.0,1.5,300.0]",
    "float32": "[0.1,-0.0,1.5,300.0]",
    "float16": "[0.1,-0.0,1.5,300.0]",
    "bfloat16": "[0.1,-0.0,1.5,300.0]",
    "float8_e4m3fn": "[0.1015625,-0.0,1.5,288.0]",
    "float8_e5m2": "[0.09375,-0.0,1.5,320.0]",
    "int8": "[0,0,1,44]",
    "int16": "[0,0,1,300]",
    "int32": "[0,0,1,300]",
    "int64": "[0,0,1,300]",
    "uint8": "[0,0,1,44]",
    "bool": "[true,false,true,true]",
    "complex64": '["0.1+0j","-0+0j","1.5+0j","300+0j"]',
    "complex128": '["0.10000000149011612+0j","-0+0j","1.5+0j","300+0j"]',
}


def told(value: Any, text: str) -> str:
    """What is wrong if that is not its text; "" if it is."""
    found = to_text(value)
    return "" if found == text else f"{found[:200]!r} instead of {text[:200]!r}"


def same(on_gpu: Any, on_host: Any) -> str:
    """What is wrong if the two have not the same text; "" if they have."""
    return told(on_gpu, to_text(on_host))


def refused(value: Any, pattern: str) -> str:
    """What is wrong if ``value`` is not refused in one line that says ``pattern``."""
    try:
        return f"it was taken: {to_text(value)[:200]!r}"
    except BadInput as error:
        said = str(error)
        return "" if re.search(pattern, said) and "\n" not in said else f"it said {said!r}"


class _NotTried(Exception):
    """A row that only a GPU can show."""


def _only_cuda(check: Check) -> Check:
    def tried() -> str:
        if AT == "cpu":
            raise _NotTried
        return check()

    return tried


# Torch.


def torch_rows() -> Iterator[tuple[str, Check]]:
    torch = importlib.import_module("torch")
    numbers, grid = torch.tensor([0.1, -0.0, 1.5, 300.0]), torch.arange(6.0).reshape(2, 3)
    for name, text in OF_TORCH.items():
        there = numbers.to(getattr(torch, name)).to(AT)
        yield name, lambda there=there, text=text: told(there, text)
        one = text.strip("[]").split(",")[0].strip('"').capitalize()
        yield f"{name}, no dimension", lambda there=there, one=one: told(there[0], one)
    weights = torch.nn.Linear(2, 1)
    made: dict[str, Callable[[str], Any]] = {
        "empty": lambda at: torch.empty(3, 0, device=at),
        "requires_grad": lambda at: grid.to(at).requires_grad_() * 2,
        "not contiguous": lambda at: grid.to(at).T[1:],
        "expanded": lambda at: torch.ones(1, device=at).expand(4),
        "conjugate": lambda at: torch.tensor([1 + 2j], device=at).conj(),
        "COO": lambda at: grid.to(at).to_sparse(),
        "COO of bfloat16": lambda at: grid.to(at).bfloat16().to_sparse(),
        "COO, one entry twice": lambda at: torch.sparse_coo_tensor(
            [[0, 0], [1, 1]], torch.ones(2, device=at), (2, 2)
        ),
        "CSR": lambda at: grid.to(at).to_sparse_csr(),
        "nested": lambda at: torch.nested.nested_tensor(
            [torch.ones(2), torch.ones(3)], layout=torch.jagged, device=at
        ),
        "parameter": lambda at: torch.nn.Parameter(grid.to(at)),
        "weights": lambda at: copy.deepcopy(weights).to(at).state_dict(),
        "in lists and dicts": lambda at: {"a": [grid.to(at)[0], 1], "b": grid.to(at).mean()},
        "result of max": lambda at: grid.to(at).max(0),
        "item of a dataset": lambda at: torch.utils.data.TensorDataset(grid.to(at))[0],
        "batch": lambda at: next(
            iter(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(grid), batch_size=2))
        )[0].to(at),
        "compiled": lambda at: torch.compile(lambda x: x * 2, backend="eager")(grid.to(at)),
        "pinned": lambda at: grid.pin_memory() if at != "cpu" else grid,
    }
    for name, make in made.items():
        yield name, lambda make=make: same(make(AT), make("cpu"))
    model = torch.nn.Linear(2, 2).to(AT)
    yield "module", lambda: refused(model, r"put in its \.state_dict\(\)")
    yield "module, compiled", lambda: refused(torch.compile(model), r"\.state_dict\(\)")
    yield "on meta", lambda: refused(torch.empty(3, device="meta"), "has a shape, but no values")
    yield "10 GB", _only_cuda(_ten_gigabytes)
    yield "behind a queue of seconds", _only_cuda(_pending)
    yield "another stream", _only_cuda(_other_stream)


def _ten_gigabytes() -> str:
    import psutil
    import torch

    value = torch.empty(5 * 10**9, dtype=torch.bfloat16, device=AT)
    rows = {"name": "a", "data": value}
    before, held = psutil.Process().memory_info().rss, torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    wrong = refused(value, "5,000,000,000 values") or refused(rows, r"^\.data: it has 5,000,000,00")
    with ScriptedServer() as server, _environment(server):
        group = bgmagic.map("{{ item.name }}", [rows], out="big", yes=1)
        answers = [str(answer) for answer in group.result(60)]
        wrong = wrong or ("" if answers == ["the answer"] else f"{answers}")
        try:
            bgmagic.map("{{ item }}", value, yes=1)
            wrong = wrong or "a sweep over it was taken"
        except BadInput as error:
            wrong = wrong or ("" if "200,000 items" in str(error) else str(error))
    taken = time.perf_counter() - begun
    grown = (psutil.Process().memory_info().rss - before) / 2**20
    more = (torch.cuda.max_memory_allocated() - held) / 2**20
    print(f"    10 GB: {taken:.2f} s, {grown:+.0f} MiB on the host, {more:+.0f} MiB on the GPU")
    return wrong or ("" if grown < 200 and more < 100 else "it was copied")


def _queued(seconds: float) -> Any:
    """A tensor that the GPU will have computed only after that time."""
    import torch

    value = torch.zeros(4, device=AT)
    torch.cuda.synchronize()
    torch.cuda._sleep(int(seconds * 1.9e9))  # cycles
    return value + 7


def _pending() -> str:
    value = _queued(3.0)
    begun = time.perf_counter()
    text = to_text(value)
    waited = time.perf_counter() - begun
    print(f"    a queue of about 3 s: its text came after {waited:.2f} s")
    return "" if text == "[7.0,7.0,7.0,7.0]" and waited > 0.5 else f"{text} after {waited:.2f} s"


def _other_stream() -> str:
    import torch

    with torch.cuda.stream(torch.cuda.Stream()):
        return told(_queued(0.5), "[7.0,7.0,7.0,7.0]")


# Others.


def cupy_rows() -> Iterator[tuple[str, Check]]:
    cupy, numpy = importlib.import_module("cupy"), importlib.import_module("numpy")
    sparse = importlib.import_module("cupyx.scipy.sparse")
    for name in ["f8", "f4", "f2", "i1", "i8", "u1", "?", "c8", "c16"]:
        host = numpy.array([0.1, 0, 1.5]).astype(name)
        yield name, lambda host=host: same(cupy.asarray(host), host)
    half = numpy.array([0.1, 65504.0], "f2")
    yield "no dimension", lambda: same(cupy.asarray(half[0]), half[0])
    yield "empty", lambda: same(cupy.zeros((3, 0)), numpy.zeros((3, 0)))
    grid = numpy.arange(6).reshape(2, 3)
    yield "not contiguous", lambda: same(cupy.asarray(grid).T[1:], grid.T[1:])
    yield "in a dict", lambda: same({"a": [cupy.asarray(grid)]}, {"a": [grid]})
    for kind in ("csr", "csc", "coo"):
        yield (
            f"sparse {kind}",
            lambda kind=kind: same(
                getattr(sparse, f"{kind}_matrix")(cupy.eye(3)),
                getattr(importlib.import_module("scipy.sparse"), f"{kind}_matrix")(numpy.eye(3)),
            ),
        )
    yield "too many", lambda: refused(cupy.zeros(10**8, "i1"), "100,000,000 values")
    yield "polynomial", lambda: refused(cupy.poly1d(cupy.arange(3.0)), "poly1d")


def jax_rows() -> Iterator[tuple[str, Check]]:
    jax, numpy = importlib.import_module("jax"), importlib.import_module("numpy")
    jnp, types = jax.numpy, importlib.import_module("ml_dtypes")
    for name in [
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "int4",
        "int8",
        "bool",
        "complex64",
    ]:
        dtype = getattr(types, name, name)
        host = numpy.array([0.1, 0, 1.5]).astype(dtype)
        yield name, lambda host=host: same(jnp.asarray(host), host)
    yield "no dimension", lambda: same(jnp.float32(0.1), numpy.float32(0.1))
    mesh = jax.sharding.Mesh(numpy.array(jax.devices()), "x")
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    yield "sharded", lambda: same(jax.device_put(jnp.arange(4.0), place), numpy.arange(4.0))
    yield "not computed yet", lambda: same(_jax_pending(jax), numpy.ones(1, "f4"))

    def donated() -> Any:
        value = jnp.ones(3)
        jax.jit(lambda x: x + 1, donate_argnums=0)(value).block_until_ready()
        return value

    def traced(within: Any) -> str:
        seen = []

        def ask(x: Any) -> Any:
            seen.append(refused({"x": x}, "has no values while it is traced"))
            return (x * x).sum()

        within(ask)(jnp.ones((2, 2)))
        return seen[0]

    yield "donated", lambda: refused(donated(), "it was deleted or donated")
    yield "donated, beside others", lambda: _swept([{"t": "a", "x": donated()}])
    for name in ("jit", "grad", "vmap"):
        yield f"in {name}", lambda name=name: traced(getattr(jax, name))
    yield "random key", lambda: refused(jax.random.key(0), r"jax\.random\.key_data\(\)")
    yield "old random key", lambda: same(jax.random.PRNGKey(3), numpy.array([0, 3], "u4"))
    yield "too many", lambda: refused(jnp.zeros(10**8, "int8"), "100,000,000 values")


def _jax_pending(jax: Any) -> Any:
    size = 256 if AT == "cpu" else 8192
    many = jax.numpy.ones((size, size), "bfloat16") / size
    for _ in range(200):
        many = many @ many * size / size
    return many[0, :1].astype("float32") * 0 + 1


def _swept(items: list[Any]) -> str:
    with ScriptedServer() as server, _environment(server):
        group = bgmagic.map("{{ item.t }}", items, yes=len(items))
        answers = [str(answer) for answer in group.result(60)]
        return "" if answers == ["the answer"] * len(items) else f"{answers}"


class Described:
    """An array that says where it lies, and nothing else."""

    def __init__(self, held: Any) -> None:
        self.held = held


class OfCuda(Described):
    @property
    def __cuda_array_interface__(self) -> Any:
        return self.held.__cuda_array_interface__


class OfDlpack(Described):
    def __dlpack__(self, **given: Any) -> Any:
        return self.held.__dlpack__(**given)

    def __dlpack_device__(self) -> Any:
        return self.held.__dlpack_device__()


def other_rows() -> Iterator[tuple[str, Check]]:
    numpy, torch = importlib.import_module("numpy"), importlib.import_module("torch")
    host = torch.tensor([[0.1, 2.0]])
    alone = _only_cuda(lambda: same(OfCuda(host.to(AT)), host))
    yield "__cuda_array_interface__ alone", alone
    yield "__dlpack__ alone", lambda: same(OfDlpack(host.to(AT)), host)
    yield "__dlpack__ of the host", lambda: same(OfDlpack(numpy.eye(2)), numpy.eye(2))
    many = _only_cuda(lambda: refused(OfCuda(_zeros()), "100,000,000 values"))
    yield "__cuda_array_interface__, too many", many
    yield "a picture of PIL", _picture
    yield "a tensor as --file", _no_picture
    yield "a cell of pandas", lambda: same(_frame(host.to(AT)), _frame(host))


def _zeros() -> Any:
    import torch

    return torch.zeros(10**8, dtype=torch.int8, device=AT)


def numba_rows() -> Iterator[tuple[str, Check]]:
    cuda, numpy = importlib.import_module("numba.cuda"), importlib.import_module("numpy")
    grid = numpy.array([[0.1, 2]], "f4")
    pair = numpy.array([(1, 0.5)], [("n", "i4"), ("x", "f4")])
    yield "device array", lambda: same(cuda.to_device(grid), grid)
    yield "slice", lambda: same(cuda.to_device(grid)[:, 1], grid[:, 1])
    yield "records", lambda: same(cuda.to_device(pair), pair)
    yield "too many", lambda: refused(cuda.device_array(10**8, "i1"), "100,000,000 values")


def _frame(cell: Any) -> Any:
    return importlib.import_module("pandas").DataFrame({"a": [1], "t": [cell]})


def _picture() -> str:
    import torch
    from PIL import Image

    from bgmagic.prompts.inputs import file_parts

    on_gpu = torch.full((2, 2, 3), 200, dtype=torch.uint8, device=AT)
    parts = file_parts([Image.fromarray(on_gpu.cpu().numpy())])
    return "" if parts[0]["type"] == "input_image" else str(parts)


def _no_picture() -> str:
    import torch

    from bgmagic.prompts.inputs import file_parts

    try:
        file_parts([torch.zeros(2, 2, device=AT)])
    except BadInput as error:
        return "" if "not Tensor" in str(error) else str(error)
    return "it was taken"


# What users have.


class _environment:
    """This process asks a scripted server."""

    def __init__(self, server: ScriptedServer) -> None:
        self._given = {**KEY, "OPENAI_BASE_URL": server.base_url}

    def __enter__(self) -> None:
        os.environ.update(self._given)

    def __exit__(self, *_: object) -> None:
        for name in self._given:
            os.environ.pop(name, None)


SETUP = """
at = {at!r}
%load_ext bgmagic
import torch
host = torch.tensor([[0.1, 2.0], [3.0, 4.5]])
there = host.to(at)
"""


def notebook_rows() -> Iterator[tuple[str, Check]]:
    with ScriptedServer() as server:
        environment = {**KEY, "OPENAI_BASE_URL": server.base_url, "BGMAGIC_POLL": "0.3"}
        with kernel(**environment) as running:
            running.ok(SETUP.format(at=AT))

            def asked(cell: str) -> list[Any]:
                before = len(server.seen)
                running.ok(cell)
                running.ok("%bgwait --timeout 60")
                return [
                    seen.body["input"] for seen in server.seen[before:] if seen.kind == "create"
                ]

            def both(cell: str, count: int = 1) -> str:
                on_gpu, on_host = (
                    asked(cell.replace("AT", "there")),
                    asked(cell.replace("AT", "host")),
                )
                texts = str(on_gpu), str(on_host)
                right = len(on_gpu) == count and sorted(texts[0]) == sorted(texts[1])
                return "" if right else f"{texts[0][:300]} instead of {texts[1][:300]}"

            for expression in (
                "AT", "AT.mean()", "AT[0]", "AT.sum().item() | round(2)", "AT.shape", "AT.cpu()",
                "AT | length", "AT.tolist()",
            ):  # fmt: skip
                cell = f"%%bgresponse -o x\nWhy {{{{ {expression} }}}}?"
                yield f"{{{{ {expression} }}}}", lambda cell=cell: both(cell)
            sweep = "%%bgresponse -o x --each AT --yes 2\nWhy {{ item }}?"
            yield "a sweep over its rows", lambda: both(sweep, 2)

            def reused() -> str:
                sent = asked(sweep.replace("AT", "host").replace("Why", "Whose"))
                again = asked(
                    sweep.replace("AT", "there")
                    .replace("Why", "Whose")
                    .replace("--each", "--reuse --each")
                )
                return "" if len(sent) == 2 and not again else f"{len(sent)} sent, then {again}"

            yield "--reuse, first on the host, then on the GPU", reused

            def dry() -> str:
                ran = running.run("%%bgresponse --dry-run\n{{ there }}")
                right = ran.status == "ok" and "[0.1,2.0]" in ran.said
                return "" if right else ran.said[:400]

            yield "--dry-run", dry

            def messages() -> str:
                turn = "turns = [{'role': 'user', 'content': there}]\n"
                running.ok(turn)
                ran = running.run("%%bgresponse --messages $turns\nWhy?")
                right = "content" in ran.said and "Traceback" not in ran.said
                return "" if right else ran.said[:400]

            yield "--messages with a tensor as content, refused", messages

            def parameter() -> str:
                running.ok("field = {'a': there}")
                ran = running.run("%%bgresponse --param metadata=$field\nWhy?")
                return "" if "Traceback" not in ran.said else ran.said[:600]

            yield "--param with a tensor, no traceback", parameter

            def forked() -> str:
                ran = running.run(
                    "data = torch.utils.data.TensorDataset(torch.arange(4.0))\n"
                    "loader = torch.utils.data.DataLoader(data, num_workers=2)\n"
                    "print(sum(float(one[0].to(at)) for one in loader))"
                )
                return "" if "6.0" in ran.stdout else ran.said[:600]

            yield "workers of a DataLoader, forked beside our thread", forked


UNTOUCHED = """
import sys
import numpy
from bgmagic.prompts.to_text import to_text
class Own:
    __cuda_array_interface__ = {{"shape": (2,), "typestr": "<f4", "data": (0, False), "version": 3}}
def told(value):
    try: return to_text(value)
    except Exception as error: return f"{{type(error).__name__}} {{error}}"
{first}
told([numpy.ones(2), 1]), told(Own())
assert {last}
"""


def untouched_rows() -> Iterator[tuple[str, Check]]:
    libraries = "torch cupy jax numba"
    cases = {
        "nothing is imported": ("", f"not {libraries.split()!r} & sys.modules.keys()".replace("[", "set([").replace("]", "])")),
        "CUDA is not begun with": (
            "import torch; told(torch.ones(2)); told(torch.nn.Linear(1, 1)); told(torch.empty(2, device='meta'))",
            "not torch.cuda.is_initialized()",
        ),
    }  # fmt: skip
    for name, (first, last) in cases.items():
        code = UNTOUCHED.format(first=first, last=last)
        yield name, lambda code=code: _process(code)


def _process(code: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    return ended.stderr[-400:]


PARTS: dict[str, Callable[[], Iterator[tuple[str, Check]]]] = {
    "torch": torch_rows, "cupy": cupy_rows, "jax": jax_rows, "numba": numba_rows,
    "others": other_rows, "notebook": notebook_rows, "untouched": untouched_rows,
}  # fmt: skip
ON_GPU_ALONE = ("cupy", "numba")


def main() -> int:
    """Try all rows; gives the number of those that do not hold."""
    global AT
    parser = argparse.ArgumentParser(prog="python -m tests.prompts.on_device", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (all)")
    parser.add_argument("--device", default=AT, help="as torch names it (cuda)")
    asked = parser.parse_args()
    if unknown := [part for part in asked.parts if part not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    AT, failed = asked.device, 0
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BGMAGIC_JOURNAL"] = str(Path(folder) / "journal.sqlite3")
        for part in asked.parts or PARTS:
            if AT == "cpu" and part in ON_GPU_ALONE:
                print(f"{part}: not tried, its arrays lie on a GPU alone")
                continue
            try:
                for name, check in PARTS[part]():
                    said = _tried(check)
                    failed += said.startswith("NO")
                    print(f"{part}, {name}: {said}", flush=True)
            except Exception as error:
                failed += 1
                about = "".join(traceback.format_exception(error)[-3:])
                print(f"{part}: NO: {about}", flush=True)
    print(f"{failed} do not hold")
    return failed


def _tried(check: Check) -> str:
    try:
        wrong = check()
    except _NotTried:
        return "not tried, it needs a GPU"
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"[:600]
    return f"NO: {wrong}" if wrong else "yes"


if __name__ == "__main__":
    code = 1 if main() else 0
    sys.stdout.flush()
    os._exit(code)
