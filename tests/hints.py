"""Every message with a hint that a user can meet, collected from the code: the rows of the page for trouble.

Reads the syntax alone, and runs nothing: what is raised only on a rare file system counts like all the rest.
"""

import ast
import re
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "src" / "tracksync"
#: Stands for what is known only when it happens: a path, a server's words.
OPEN = "…"
#: Where a finding of the doctor has its message and its hint, and where an error has.
FINDING, ERROR = (2, 3), (0, 1)


class Hint(NamedTuple):
    kind: str  #: name of the error's class, or "Finding"
    message: str
    hint: str


@cache
def modules():
    """The modules of the package by their dotted names."""
    names = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): ast.parse(path.read_text()) for path, name in sorted(names.items())}


@cache
def errors():
    """The classes of errors that carry a hint, by name: each with the first sentence of its docstring."""
    classes = [node for tree in modules().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found = {"TracksyncError"}
    while more := {c.name for c in classes if any(ast.unparse(base) in found for base in c.bases)} - found:
        found |= more
    return {c.name: (ast.get_docstring(c) or "").partition("\n\n")[0] for c in classes if c.name in found}


@cache
def collect():
    """All hints, each once, in a fixed order.

    Raises:
        AssertionError: one is put together in a way that this module cannot read: it would have no row.
    """
    found = {
        (hint.message, hint.hint): hint
        for name, tree in modules().items()
        for above in _calls((tree,))
        for hint in _hints(name, above)
    }
    return sorted(found.values(), key=lambda hint: (hint.kind, hint.message.strip(OPEN).casefold(), hint.hint))


def _calls(above):
    """Each call below a node: it, with all nodes above it, the outermost first."""
    for child in ast.iter_child_nodes(above[-1]):
        if isinstance(child, ast.Call):
            yield (*above, child)
        yield from _calls((*above, child))


def _hints(module, above):
    """The hints of one call: none, or one for each way in which message and hint can be chosen."""
    call = above[-1]
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name not in errors() and name != "Finding":
        return
    message, hint = FINDING if name == "Finding" else ERROR
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    said = call.args[hint] if len(call.args) > hint else given.get("hint")
    for text in _texts(module, above, said) if said else ():
        if text:  # else there is none, or it is handed on, and has a row where it is made
            yield from (Hint(name, line or OPEN, text) for line in _texts(module, above, call.args[message]))


def _texts(module, above, node):
    """What an expression can say, ``OPEN`` for its open parts; None for what is handed on from another error."""
    match node:
        case ast.Constant():
            return [str(node.value)]
        case ast.JoinedStr():
            text = "".join(part.value if isinstance(part, ast.Constant) else OPEN for part in node.values)
            return [re.sub(f"{OPEN}+", OPEN, text)]
        case ast.IfExp():
            return _texts(module, above, node.body) + _texts(module, above, node.orelse)
        case ast.BoolOp():
            return [text for value in node.values for text in _texts(module, above, value)]
        case ast.Attribute(attr="hint"):
            return [None]
        case ast.Attribute():
            return _held(module, above, ast.unparse(node)) or [OPEN]
        case ast.BinOp(op=ast.Add()):
            ways = product(_texts(module, above, node.left), _texts(module, above, node.right))
            return ["".join(part or OPEN for part in parts) for parts in ways]
        case ast.Call() | ast.Subscript():
            return [OPEN]
        case ast.Name():
            return _named(module, above, node.id)
    raise AssertionError(f"{module}, line {node.lineno}: a hint that cannot be read: {ast.unparse(node)}")


def _named(module, above, name):
    """What a name can say: what was assigned to it before, here or in another module; ``OPEN`` for a parameter."""
    values, certain = [], False
    for place in range(len(above) - 2, -1, -1):
        scope, inner = above[place], above[place + 1]
        if not certain:
            certain = _assigned(scope, inner, name, values)
        if isinstance(scope, ast.FunctionDef | ast.Module):
            if values:
                return [text for value in values for text in _texts(module, above[: place + 2], value)]
            if isinstance(scope, ast.FunctionDef) and name in _parameters(scope):
                return [OPEN]
    for each in ast.walk(modules()[module]):
        if isinstance(each, ast.ImportFrom) and any(alias.name == name for alias in each.names):
            other = modules()[each.module]
            return _named(each.module, (other, other), name)
    return [OPEN]


def _held(module, above, name):
    """What a class around assigned to an attribute of its own."""
    for each in (each for scope in above if isinstance(scope, ast.ClassDef) for each in ast.walk(scope)):
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == name:
            return _texts(module, above, each.value)
    return []


def _parameters(function):
    return {each.arg for each in ast.walk(function.args) if isinstance(each, ast.arg)}


def _assigned(scope, inner, name, values):
    """Add to ``values`` what a block assigned to a name before ``inner``; whether all that lies further up is past."""
    for field in ("body", "orelse", "finalbody"):
        block = getattr(scope, field, [])
        if isinstance(scope, ast.Module):
            before = block  # a constant may stand below the function that uses it
        elif isinstance(block, list) and inner in block:
            before = block[: block.index(inner)]
        else:
            continue
        for statement in reversed(before):
            found = [each.value for each in _assignments(statement) if ast.unparse(each.targets[0]) == name]
            values += found
            if found and isinstance(statement, ast.Assign):
                return True
    return False


def _assignments(statement):
    """The assignments in a statement, without those of functions that it defines."""
    if isinstance(statement, ast.Assign):
        yield statement
    elif not isinstance(statement, ast.FunctionDef | ast.ClassDef):
        for child in ast.iter_child_nodes(statement):
            yield from _assignments(child)
