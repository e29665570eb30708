"""`counterstain doctor`: what this machine has.

Does not know: slides, models.
"""

import os
import platform
from importlib import metadata
from typing import Any

from counterstain import __version__, log
from counterstain.cli import OK, WRONG_USE

_LIBRARIES = [
    "torch",
    "lightning",
    "torchmetrics",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "pyarrow",
    "pillow",
    "openslide-python",
    "openslide-bin",
    "tifffile",
    "imagecodecs",
    "simplejpeg",
    "zarr",
    "h5py",
    "safetensors",
    "shapely",
    "contourpy",
    "cyclopts",
    "pydantic",
    "tomli-w",
    "rich",
    "matplotlib",
    "jinja2",
    "psutil",
]
_EXTRAS = {"wsidicom": "dicom", "timm": "timm", "onnxruntime": "onnx", "openvino": "openvino"}
_LEAST_MEMORY_GIB = 4


def doctor(*, json: bool = False) -> int:
    """Check this machine: libraries, processors, memory, slide formats.

    Args:
        json: Answer as JSON.
    """
    found = _findings()
    if json:
        log.emit_json(found)
    else:
        _show(found)
    return OK if not found["problems"] else WRONG_USE


def _findings() -> dict[str, Any]:
    versions = {name: _version(name) for name in _LIBRARIES}
    problems = [
        f"{name} is missing. Install it: pip install {name}" for name, version in versions.items() if version is None
    ]
    warnings: list[str] = []
    found = {
        "counterstain": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count() or 1,
        "threads": None,
        "network_threads": None,
        "reader_threads": None,
        "threads_because": None,
        "runtime": None,
        "runtime_because": None,
        "memory_gib": None,
        "memory_free_gib": None,
        "gpus": [],
        "readers": [],
        "libraries": versions,
        "extras": {name: _version(name) for name in _EXTRAS},
        "problems": problems,
        "warnings": warnings,
    }
    for look in (_machine, _torch, _threads, _runtime, _readers):
        try:
            found |= look()
        except (ImportError, OSError) as error:  # a library that is not there, or whose own libraries are not
            problems.append(f"A library can't be loaded: {error}. Install counterstain again: pip install counterstain")
    free = found["memory_free_gib"]
    if isinstance(free, float) and free < _LEAST_MEMORY_GIB:
        warnings.append(f"Only {free:.1f} GiB of memory are free; training wants {_LEAST_MEMORY_GIB}.")
    used = found["network_threads"]
    if isinstance(used, int) and used > 1 and not _threads_sleep():
        warnings.append(
            f"OMP_WAIT_POLICY is {os.environ.get('OMP_WAIT_POLICY') or 'not set'}: waiting threads spin, and beside other "
            "work networks get 3 to 20 times slower. Set OMP_WAIT_POLICY=PASSIVE before Python starts, or one thread each."
        )
    return found


def _machine() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    return {
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "memory_gib": round(memory.total / 2**30, 1),
        "memory_free_gib": round(memory.available / 2**30, 1),
    }


def _torch() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"threads": torch.get_num_threads(), "gpus": gpus}


def _threads() -> dict[str, Any]:
    from counterstain.infer.runtime import available_cores, network_threads, reader_threads

    if "OMP_NUM_THREADS" in os.environ:
        because = f"OMP_NUM_THREADS is {os.environ['OMP_NUM_THREADS']}"
    elif _threads_sleep():
        because = "waiting threads sleep (OMP_WAIT_POLICY=PASSIVE), so networks get every core"
    else:
        because = "waiting threads spin, so a core is left to those that read"
    found = {"network_threads": network_threads(None), "reader_threads": reader_threads(None)}
    return {**found, "threads_because": f"{available_cores()} cores may be used; {because}"}


def _threads_sleep() -> bool:
    return os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"


def _runtime() -> dict[str, Any]:
    from counterstain.errors import CounterstainError
    from counterstain.infer.runtime import NEEDED, choose_runtime

    try:
        chosen = choose_runtime(runtime="auto")
    except CounterstainError as error:  # the environment may ask for what is not there
        return {"runtime": None, "runtime_because": str(error)}
    there = [library for library, *_ in NEEDED.values() if _version(library)]
    if chosen.device.type != "cpu":
        because = "there is a GPU"
    elif chosen.name != "torch":
        because = "it is installed, and faster on a CPU than torch"
    elif os.environ.get("COUNTERSTAIN_RUNTIME") == "torch":
        because = "COUNTERSTAIN_RUNTIME asks for it"
    elif there:
        because = f"{' and '.join(there)} is installed, but not what exports networks: pip install 'counterstain[onnx]'"
    else:
        because = (
            "no other is installed: pip install 'counterstain[onnx]' makes networks on a CPU 1.2 to 1.8 times as fast"
        )
    return {"runtime": f"{chosen.name} on {chosen.device}, precision {chosen.precision}", "runtime_because": because}


def _readers() -> dict[str, Any]:
    from counterstain.slides import READERS

    return {"readers": list(READERS)}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _show(found: dict[str, Any]) -> None:
    rows = [
        ["counterstain", found["counterstain"]],
        ["Python", f"{found['python']} on {found['system']}"],
        ["processors", f"{found['cores']} cores, torch uses {found['threads'] or 'unknown'} threads"],
        [
            "threads",
            f"{found['network_threads'] or '?'} for networks, {found['reader_threads'] or '?'} that read: "
            f"{found['threads_because'] or 'unknown'}",
        ],
        ["networks run by", f"{found['runtime'] or 'none'}: {found['runtime_because'] or 'unknown'}"],
        ["memory", f"{found['memory_free_gib'] or '?'} of {found['memory_gib'] or '?'} GiB free"],
        ["GPUs", ", ".join(found["gpus"]) or "none: training and prediction run on the processors"],
        ["slide readers", ", ".join(found["readers"]) or "unknown"],
        ["libraries", ", ".join(f"{name} {version}" for name, version in found["libraries"].items())],
        *(
            [
                f"extra '{_EXTRAS[name]}'",
                f"{name} {version}" if version else f"not installed: counterstain[{_EXTRAS[name]}]",
            ]
            for name, version in found["extras"].items()
        ),
    ]
    log.emit_table("This machine", ["", "found"], rows)
    for line in (*found["problems"], *found["warnings"]):
        log.say(line)
    if not found["problems"]:
        log.say("All is well. Next: counterstain demo")
