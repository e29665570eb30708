"""Published SSHR checkpoints under our names: every tensor is told for what it is, or the checkpoint is refused.

    names and tensors -> told by name -> told by shape -> told by what lies beside them and by words -> our names, and why

The backbone, the two norms after its taps and the deep head have known names. Those of the other heads and of the
rectification are not documented, so these are known by what they are: a depthwise kernel over C channels is the smoothing
of the tap with C channels, a matrix with as many columns as there are deep channels is the first of the channel weighing,
and so on. What a shape does not tell (which module a tensor belongs to, which branch a single number scales) is told by the
tensors beside it and by words in its name. Where that leaves a doubt the tensors are named and the user says which is
which; nothing is guessed from an order.

Does not know: files, settings, how the network is built.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from counterstain.errors import UnknownNameError, WeightsError, listed

_WRAPPERS = ("module.", "model.")  # of a network trained on several GPUs, or inside another
_BACKBONE = re.compile(r"(conv1a|b[2-7](_\d+)?|bn7)\.")
_TAP_NORMS = ("bn45", "bn52")
_DEEP_HEAD = "fc8.weight"
_BRANCHES = {
    "semantic": ("squeeze.weight", "excite.weight", "semantic_scale"),
    "context": ("smooth.weight", "context_scale"),
}
# Beginnings of words, and whole words: g_s and g_c are the paper's two scales.
_WORDS = {
    "semantic": (("sem", "gsr"), ("gs",)),
    "context": (("ctx", "context", "smooth"), ("gc",)),
}
# Letters that may stand for spatial and channel too: they tell nothing, and put in doubt what does not agree with them.
_LETTERS = {"s": "semantic", "c": "context", "ch": "context"}
_SQUEEZE, _SCALE = "hfrm.?.squeeze.weight", "hfrm.?.?_scale"
_NAMES = (
    *(f"{norm}.{part}" for norm in _TAP_NORMS for part in ("weight", "bias", "running_mean", "running_var")),
    "deep_head.weight",
    *(f"heads.{level}.{part}" for level in range(3) for part in ("weight", "bias")),
    *(f"hfrm.{level}.{part}" for level in range(3) for parts in _BRANCHES.values() for part in parts),
)

Told = dict[str, tuple[str, str]]
"""Names in the checkpoint to ours and the reason."""


@dataclass(frozen=True)
class Decision:
    """What a tensor of a checkpoint was taken for.

    Args:
        given: Its name in the checkpoint.
        ours: Its name in our network.
        why: What told it.
    """

    given: str
    ours: str
    why: str


@dataclass(frozen=True)
class Adopted:
    """A checkpoint under our names.

    Args:
        state: As the state dict of `SSHRNetwork` has it.
        decisions: One for each tensor of the checkpoint, in its order.
    """

    state: dict[str, Tensor]
    decisions: tuple[Decision, ...]


@dataclass(frozen=True)
class _Widths:
    """Numbers of channels that tell parts apart: of the classes, the three shallow taps, the deep one."""

    classes: int
    shallow: tuple[int, int, int]
    deep: int


def adopt_published(state: Mapping[str, Tensor], renames: Mapping[str, str] | None = None) -> Adopted:
    """The tensors of a published SSHR checkpoint under our names and in our shapes.

    Args:
        state: Names to tensors as they stand in the checkpoint; "module." or "model." before all of them is passed over.
        renames: Names in the checkpoint to ours, for what can't be told. They win over what can.

    Raises:
        UnknownNameError: When a rename is from no name of the checkpoint, or to none of ours.
        WeightsError: When tensors fit no part or several, or parts are missing; the message names all of them.

    Source: arXiv 2606.20250, Eq. 1 to 4 for the parts; names of the backbone as in arXiv 1803.10464, of the two norms and
        the deep head as in the released code.
    """
    given = _unwrapped(state)
    tensors = {name: state[whole] for name, whole in given.items()}
    found = _told(given, renames or {})
    found |= {name: (ours, "its name") for name in tensors if name not in found and (ours := _known(name))}
    widths = _widths({ours: tensors[name] for name, (ours, _) in found.items()})
    rest = {name: tensor for name, tensor in tensors.items() if name not in found}
    recognised, doubts = _recognised(rest, _places(found), widths)
    found |= recognised
    doubts |= _doubles(found)
    vacant = _vacant({ours for ours, _ in found.values()})
    if doubts or vacant:
        raise WeightsError(_refusal({given[name]: (tensors[name], why) for name, why in doubts.items()}, vacant))
    return Adopted(
        {found[name][0]: _shaped(found[name][0], tensor) for name, tensor in tensors.items()},
        tuple(Decision(given[name], *found[name]) for name in tensors),
    )


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names without what stands before all of them, to the whole names."""
    if not state:
        raise WeightsError("The checkpoint holds no tensor. Give the file of a trained network.")
    given = {name: name for name in state}
    while wrapper := next((one for one in _WRAPPERS if all(name.startswith(one) for name in given)), None):
        given = {name.removeprefix(wrapper): whole for name, whole in given.items()}
    return given


def _told(given: Mapping[str, str], renames: Mapping[str, str]) -> Told:
    """What the user says of tensors."""
    short = {whole: name for name, whole in given.items()}
    for old, new in renames.items():
        if old not in short:
            raise UnknownNameError("tensor of the checkpoint", old, [one for one in short if not _known(short[one])])
        if new not in _NAMES and not (new.startswith("backbone.") and _BACKBONE.match(new.removeprefix("backbone."))):
            raise UnknownNameError("part of SSHR's network", new, _NAMES)
    return {short[old]: (new, "as told") for old, new in renames.items()}


def _known(name: str) -> str | None:
    if _BACKBONE.match(name):
        return f"backbone.{name}"
    if name.partition(".")[0] in _TAP_NORMS:
        return name
    return "deep_head.weight" if name == _DEEP_HEAD else None


def _widths(state: Mapping[str, Tensor]) -> _Widths:
    """From tensors whose names are known."""
    ends = [f"backbone.{block}.conv_branch2b1.weight" for block in ("b3", "b4", "b5")]
    lacking = [name for name in (*ends, "backbone.bn7.weight", "deep_head.weight") if name not in state]
    if lacking:
        names = ", ".join(name.removeprefix("backbone.") for name in lacking).replace("deep_head.weight", _DEEP_HEAD)
        raise WeightsError(
            f"The checkpoint lacks {names}: that is no SSHR on Wide-ResNet38 as it was published. Give one that is; a deep "
            "head of another name is told by --rename NAME=deep_head.weight."
        )
    first, second, third = (state[name].shape[0] for name in ends)
    return _Widths(state["deep_head.weight"].shape[0], (first, second, third), state["backbone.bn7.weight"].shape[0])


def _recognised(rest: Mapping[str, Tensor], placed: Mapping[str, str], widths: _Widths) -> tuple[Told, dict[str, str]]:
    """What tensors of unknown names are; and of those that can't be told, why.

    Args:
        rest: The tensors.
        placed: Names of other tensors of heads and rectification to ours.
        widths: See there.
    """
    hidden = {tensor.shape[0] for tensor in rest.values() if _is_matrix(tensor) and tensor.shape[1] == widths.deep}
    roles = {name: _roles(tensor, widths, hidden) for name, tensor in rest.items()}
    found = {
        name: (fitting[0], f"its shape, {_shape(rest[name])}")
        for name, fitting in roles.items()
        if len(fitting) == 1 and "?" not in fitting[0]
    }
    found |= _biases({name for name, tensor in rest.items() if tensor.shape == (widths.classes,)}, found)
    placed = {**placed, **_places(found)}
    modules = {
        name: _beside(name, placed, _level)
        for name in rest
        if name not in found and roles[name] in ([_SQUEEZE], [_SCALE])
    }
    levels = {name: next(iter(near)) for name, (_, near) in modules.items() if len(near) == 1}
    for name, level in levels.items():
        if roles[name] == [_SQUEEZE]:
            why = f"its shape, {_shape(rest[name])}, beside others of '{modules[name][0]}'"
            found[name] = (_SQUEEZE.replace("?", level), why)
    scales = {name: level for name, level in levels.items() if roles[name] == [_SCALE]}
    found |= _scales(scales, {**placed, **_places(found)})
    return found, {name: _doubt(roles[name], levels.get(name)) for name in rest if name not in found}


def _is_matrix(tensor: Tensor) -> bool:
    """Also one that is stored as a 1x1 convolution."""
    return tensor.ndim == 2 or (tensor.ndim == 4 and tensor.shape[2:] == (1, 1))


def _roles(tensor: Tensor, widths: _Widths, hidden: set[int]) -> list[str]:
    """Which parts of heads and rectification have a tensor's shape, "?" for what it does not tell.

    Args:
        tensor: Its values are not looked at.
        widths: See there.
        hidden: Numbers of hidden units that channel weighing in this checkpoint may have.
    """
    shape, taps = tensor.shape, list(enumerate(widths.shallow))
    if tensor.numel() == 1:
        return [_SCALE]
    if tensor.ndim == 4 and shape[1] == 1 and shape[2] == shape[3] and shape[2] % 2 == 1 and shape[2] > 1:
        return [f"hfrm.{level}.smooth.weight" for level, width in taps if shape[0] == width]
    if not _is_matrix(tensor):
        return []
    rows, columns = shape[:2]
    return [
        *(f"heads.{level}.weight" for level, width in taps if (rows, columns) == (widths.classes, width)),
        *(f"hfrm.{level}.excite.weight" for level, width in taps if rows == width and columns in hidden),
        *([_SQUEEZE] if columns == widths.deep else []),
    ]


def _biases(names: set[str], found: Told) -> Told:
    """Of heads that were found."""
    heads = {name: found.get(f"{name.removesuffix('.bias')}.weight", ("", ""))[0] for name in names}
    return {
        name: (head.replace("weight", "bias"), "beside its weight")
        for name, head in heads.items()
        if name.endswith(".bias") and head.startswith("heads.")
    }


def _places(found: Told) -> dict[str, str]:
    """Names of tensors of heads and rectification to ours: what others may lie beside."""
    return {name: ours for name, (ours, _) in found.items() if ours.startswith(("heads.", "hfrm."))}


def _level(ours: str) -> str:
    """Which of the three modules a part belongs to, as it is written."""
    return ours.split(".")[1]


def _branch(ours: str) -> str:
    """Which branch a part of the rectification belongs to; "" for other parts."""
    return next((branch for branch, parts in _BRANCHES.items() if ours.split(".", 2)[-1] in parts), "")


def _beside(name: str, placed: Mapping[str, str], kind: Callable[[str], str]) -> tuple[str, set[str]]:
    """The innermost module around a tensor that holds placed ones of some kind, and all kinds it holds."""
    path = name
    while "." in path:
        path = path.rpartition(".")[0]
        kinds = {kind(ours) for other, ours in placed.items() if other.startswith(f"{path}.")} - {""}
        if kinds:
            return path, kinds
    return "", set()


def _scales(levels: Mapping[str, str], placed: Mapping[str, str]) -> Told:
    """Which branch single numbers scale, of those for which it can be told.

    Args:
        levels: Their names to the module each belongs to.
        placed: Names of the tensors beside them to ours.
    """
    reasons = {name: _reasons(name, placed) for name in levels}
    found: Told = {}
    for name, level in levels.items():
        twins = [other for other in levels if other != name and levels[other] == level]
        there = {_branch(ours) for ours in placed.values() if ours.startswith(f"hfrm.{level}.")}
        if len(reasons[name]) == 1:
            branch, why = next(iter(reasons[name].items()))
            found[name] = f"hfrm.{level}.{branch}_scale", why
        elif not reasons[name] and len(twins) == 1 and len(reasons[twins[0]]) == 1 and there == set(_BRANCHES):
            branch = next(one for one in _BRANCHES if one not in reasons[twins[0]])
            found[name] = f"hfrm.{level}.{branch}_scale", f"what '{twins[0]}' leaves"
    return found


def _reasons(name: str, placed: Mapping[str, str]) -> dict[str, str]:
    """What speaks for each branch that a number may scale: the tensors beside it, the last telling words of its name.

    Letters that don't agree with these, or stand alone, speak for every branch: that is a doubt.
    """
    reasons: dict[str, str] = {}
    path, branches = _beside(name, placed, _branch)
    if len(branches) == 1:
        reasons[branches.pop()] = f"beside others of '{path}'"
    letters: dict[str, str] = {}
    for part in reversed(name.split(".")):
        words = _words(part)
        letters |= {_LETTERS[word]: f"'{word}' in its name" for word in words if word in _LETTERS}
        said = {branch: word for word in words for branch in _BRANCHES if _speaks_for(word, branch)}
        if said:
            reasons = {branch: f"'{word}' in its name" for branch, word in said.items()} | reasons
            break
    if letters and set(letters) != set(reasons):
        return dict.fromkeys(_BRANCHES, "letters that may mean either") | letters | reasons
    return reasons


def _words(part: str) -> list[str]:
    """The words of a name between two dots, in small letters; "g" and the letter behind it are one: g_s, gS, gs."""
    words: list[str] = []
    for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part):
        if words and words[-1] == "g" and word.lower() in ("s", "c"):
            words[-1] += word.lower()
        else:
            words.append(word.lower())
    return words


def _speaks_for(word: str, branch: str) -> bool:
    beginnings, whole = _WORDS[branch]
    return word in whole or word.startswith(beginnings)


def _doubt(roles: Sequence[str], level: str | None) -> str:
    """Why a tensor of these roles can't be told."""
    if not roles:
        return "no part has this shape"
    if len(roles) > 1:
        return f"fits {' and '.join(roles)}"
    if level is None:
        return "its name does not say to which of the three modules it belongs"
    return f"its name does not say whether it scales the semantic or the context branch of hfrm.{level}"


def _doubles(found: Told) -> dict[str, str]:
    """Tensors that were taken for the same part."""
    count = Counter(ours for ours, _ in found.values())
    return {name: f"one of {count[ours]} that fit {ours}" for name, (ours, _) in found.items() if count[ours] > 1}


def _vacant(taken: set[str]) -> list[str]:
    """Parts that nothing was taken for. A branch of which nothing is there was left out of the network."""
    branches = {_branch(ours) for ours in taken if ours.startswith("hfrm.")}
    wanted = [name for name in _NAMES if not name.startswith("hfrm.") or _branch(name) in branches]
    return [name for name in wanted if name not in taken]


def _refusal(doubts: Mapping[str, tuple[Tensor, str]], vacant: Sequence[str]) -> str:
    lines = [f"{name} {_shape(tensor)}: {why}" for name, (tensor, why) in doubts.items()]
    lines += [f"nothing was found for {name}" for name in vacant]
    example = f"{next(iter(doubts), 'NAME')}={vacant[0] if vacant else 'OURS'}"
    return (
        listed("Not every tensor of the checkpoint could be told:", lines, shown=len(_NAMES))
        + f"\nSay which is which, one --rename for each, as in --rename {example} (`renames` in Python)."
    )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _shaped(ours: str, tensor: Tensor) -> Tensor:
    """A matrix stored as a 1x1 convolution or the other way round, and single numbers, in our shapes."""
    if ours.endswith("_scale") and tensor.numel() == 1:
        return tensor.reshape(1)
    if ours.endswith(("squeeze.weight", "excite.weight")) and _is_matrix(tensor):
        return tensor.flatten(1)
    if ours.startswith(("heads.", "deep_head.")) and tensor.ndim == 2:
        return tensor[:, :, None, None]
    return tensor
