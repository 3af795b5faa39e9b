"""The machine's own accelerator through PyTorch: the only module that imports torch, and only when asked.

CUDA and ROCm devices, which PyTorch both calls `cuda`. Runs are captured in a graph; where that is not possible they
are launched one by one on the stream, and rows say so.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from cosim.errors import SpecError
from cosim.measure.kernels import EIGHT_BIT, NO_QUANTISER, PLAIN, UNANSWERED, Run, runs_of
from cosim.measure.points import Launch, Matmul, Point
from cosim.measure.timing import Facts, UnableError

PROBE = 256
"""Side of the product that tells whether a format runs."""
FLASH_FORMATS = ("bf16", "fp16")
Made = TypeVar("Made")
_QUERY = ("--query-gpu=uuid,driver_version,clocks.max.sm,power.limit", "--format=csv,noheader")


def open_device() -> TorchDevice:
    """The current accelerator of this process. Raises SpecError without torch, or without a device."""
    try:
        import torch
    except ImportError:
        raise SpecError("cosim measure needs the extra: pip install 'cosim[gpu]'") from None
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        reason = "no device answers" if built else "this build is for the CPU alone"
        hint = "cosim measure needs a CUDA or ROCm device; check the driver and the build of torch"
        raise SpecError(f"torch {torch.__version__} finds no device: {reason}", hint=hint)
    return TorchDevice(torch)


class TorchDevice:
    """The current CUDA or ROCm device; see `cosim.measure.timing.Device`."""

    def __init__(self, torch: Any) -> None:  # noqa: ANN401  # torch is optional and comes as it is
        self._torch = torch
        self._where = torch.device("cuda", torch.cuda.current_device())
        self._eight_bit = EIGHT_BIT[0]
        self._facts = _facts(torch, torch.cuda.get_device_properties(self._where))

    @property
    def facts(self) -> Facts:
        """What it is."""
        return self._facts

    def lacks(self, kind: str, dtype: str) -> str:
        """Why it cannot run `kind` in `dtype`; empty where it can. Products are tried."""
        if kind == "attention":
            return "" if dtype in FLASH_FORMATS else "the flash attention of torch runs in bf16 and fp16"
        if dtype not in PLAIN and dtype != "fp8":
            return UNANSWERED.get(dtype, NO_QUANTISER)
        if dtype == "tf32" and (
            self._torch.version.hip or self._torch.cuda.get_device_capability(self._where) < (8, 0)
        ):
            return "the device, or torch on it, has no tf32: it would run fp32"
        if dtype != "fp8":
            return self._tried(dtype)
        reasons = []
        for self._eight_bit in EIGHT_BIT:
            reasons.append(self._tried(dtype))
            if not reasons[-1]:
                return ""
        return reasons[0]

    def _tried(self, dtype: str) -> str:
        """Why one product in `dtype` fails; empty where it runs."""
        try:
            self._ready(Matmul(dtype, PROBE, PROBE, PROBE), 1)
        except UnableError as error:
            if error.lost:
                raise SpecError(f"the device answers no more after a product in {dtype}: {error}") from None
            return str(error)
        except (TypeError, AttributeError) as error:
            # Eight-bit products are no stable part of torch: another version may lack a format or an argument.
            return f"torch {self._facts.torch}: {error}"
        return ""

    def loop(self, point: Point, runs: int, copies: int, flush_bytes: float) -> TorchLoop:
        """`runs` runs over `copies` copies in turn; `flush_bytes` are read before a replay. Raises UnableError."""
        each = self._ready(point, copies)
        replay, method = _stream(each, runs), "stream"
        if not isinstance(point, Launch) or point.what == "graph_gap":
            try:
                replay, method = self._captured(each, runs), "graph"
            except RuntimeError as error:
                reason = _reason(self._torch, error)
                if isinstance(point, Launch):
                    raise UnableError(f"graphs are not possible: {reason}") from None
        flush = _guarded(self._torch, lambda: self._flush(flush_bytes)) if flush_bytes else None
        ahead = not (isinstance(point, Launch) and point.what == "lone_kernel")
        return TorchLoop(self._torch, each, replay, flush, method, ahead=ahead)

    def _ready(self, point: Point, copies: int) -> Sequence[Run]:
        """Runs of a point after each copy ran once: libraries have chosen their kernels. Raises UnableError."""
        self._torch.cuda.empty_cache()

        def make() -> Sequence[Run]:
            each = runs_of(self._torch, self._where, point, copies, self._eight_bit)
            for run in each:
                run()
            self._torch.cuda.synchronize()
            return each

        return _guarded(self._torch, make)

    def _captured(self, each: Sequence[Run], runs: int) -> Callable[[], None]:
        """A graph of `runs` runs. Raises RuntimeError where the device, or a kernel, cannot be captured."""
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph):
            for index in range(runs):
                each[index % len(each)]()
        return graph.replay  # type: ignore[no-any-return]  # torch is Any here

    def _flush(self, flush_bytes: float) -> Run:
        """A read that fills the last cache with lines that nothing has to write back."""
        other = self._torch.zeros(int(flush_bytes) // 4, device=self._where)
        return other.amax  # type: ignore[no-any-return]  # torch is Any here


class TorchLoop:
    """Runs between two events; see `cosim.measure.timing.Loop`."""

    def __init__(
        self,
        torch: Any,  # noqa: ANN401  # torch is optional and comes as it is
        runs: Sequence[Run],
        replay: Callable[[], None],
        flush: Run | None,
        method: str,
        *,
        ahead: bool,
    ) -> None:
        self._torch, self._replay, self._flush, self._ahead = torch, replay, flush, ahead
        self._runs = runs  # a graph knows addresses, not tensors: they must live as long as it
        self.method = method

    def seconds(self) -> float:
        """Time of one replay [s]. Raises UnableError.

        With `ahead` an untimed replay goes before: it keeps the device busy while the host launches the timed one,
        so that no waiting for the host is counted, and it warms what is to be warm.
        """
        begin, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))

        def run() -> float:
            self._torch.cuda.synchronize()
            if self._ahead:
                self._replay()
            if self._flush is not None:
                self._flush()
            begin.record()
            self._replay()
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end)) / 1e3

        return _guarded(self._torch, run)


def _guarded(torch: Any, make: Callable[[], Made]) -> Made:  # noqa: ANN401  # torch is optional and comes as it is
    """What `make` returns. Raises UnableError where the device refuses."""
    try:
        return make()
    except (RuntimeError, ValueError) as error:
        raise UnableError(_reason(torch, error)) from None


def _reason(torch: Any, error: Exception) -> str:  # noqa: ANN401  # torch is optional and comes as it is
    """First line of an error. Raises UnableError where the device is lost."""
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        raise UnableError(reason, lost=True) from None
    return reason


def _stream(each: Sequence[Run], runs: int) -> Callable[[], None]:
    """Runs launched one by one."""

    def replay() -> None:
        for index in range(runs):
            each[index % len(each)]()

    return replay


def _facts(torch: Any, properties: Any) -> Facts:  # noqa: ANN401  # torch is optional and comes as it is
    """What torch and the driver's tool say; what neither says is unknown."""
    driver, clock, power = _driver(str(getattr(properties, "uuid", "")))
    return Facts(
        name=str(properties.name),
        torch=str(torch.__version__),
        driver=driver,
        clock=clock,
        power_limit=power,
        cache_bytes=float(getattr(properties, "L2_cache_size", 0)),
        memory_bytes=float(properties.total_memory),
        cores=int(properties.multi_processor_count),
    )


def _driver(uuid: str) -> tuple[str, str, str]:
    """Driver, highest clock and power limit of the device `uuid`; empty where they are not known."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "", "", ""
    try:
        said = subprocess.run(  # noqa: S603  # the tool of the driver, no word of it from outside
            [tool, *_QUERY], capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "", "", ""
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines()]
    rows = [row for row in rows if len(row) == 4]
    mine = [row for row in rows if uuid and row[0].endswith(uuid)]
    # Without its uuid a device is known only where it is alone.
    chosen = mine or (rows if len(rows) == 1 else [])
    return (chosen[0][1], chosen[0][2], chosen[0][3]) if chosen else ("", "", "")
