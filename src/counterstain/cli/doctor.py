"""`counterstain doctor`: what this machine has.

Does not know: slides, models.
"""

import platform
from importlib import metadata
from typing import Any

from counterstain import __version__, log

_LIBRARIES = [
    "torch",
    "lightning",
    "torchmetrics",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
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
    "rich",
    "matplotlib",
]
_EXTRAS = {"wsidicom": "dicom", "timm": "timm"}
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
    return 0 if not found["problems"] else 2


def _findings() -> dict[str, Any]:
    import psutil
    import torch

    versions = {name: _version(name) for name in _LIBRARIES}
    problems = [
        f"{name} is missing. Install it: pip install {name}" for name, version in versions.items() if version is None
    ]
    memory = psutil.virtual_memory()
    if memory.available < _LEAST_MEMORY_GIB << 30:
        problems.append(
            f"Only {memory.available / 2**30:.1f} GiB of memory are free; training wants {_LEAST_MEMORY_GIB}."
        )
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "counterstain": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory.total / 2**30, 1),
        "memory_free_gib": round(memory.available / 2**30, 1),
        "gpus": gpus,
        "readers": _readers(),
        "libraries": versions,
        "extras": {name: _version(name) for name in _EXTRAS},
        "problems": problems,
    }


def _readers() -> list[str]:
    from counterstain.slides import READERS

    return list(READERS)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _show(found: dict[str, Any]) -> None:
    rows = [
        ["counterstain", found["counterstain"]],
        ["Python", f"{found['python']} on {found['system']}"],
        ["processors", f"{found['cores']} cores, torch uses {found['threads']} threads"],
        ["memory", f"{found['memory_free_gib']} of {found['memory_gib']} GiB free"],
        ["GPUs", ", ".join(found["gpus"]) or "none: training and prediction run on the processors"],
        ["slide readers", ", ".join(found["readers"])],
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
    for problem in found["problems"]:
        log.say(problem)
    if not found["problems"]:
        log.say("All is well. Next: counterstain demo")
