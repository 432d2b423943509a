"""The templates of all messages in the source: f-strings with named placeholders, found in its syntax."""

import ast
import functools
import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from danqing.locale.catalogue import is_specific

_MOST_VARIANTS = 16
_FIRST = {"say", "_say", "on_message", "on_alarm", "warn"}
"""Functions that show their first argument."""
_THIRD = {"on_progress", "on_data", "_on_progress", "update"}
"""Functions that show their third argument, the name of a stage."""
_NOTED = {"notes", "problems", "warnings"}
"""Lists whose entries are shown."""
_SPOKEN = ("cli", "progress.py", "quantities.py")
"""Where any text of several words is shown."""
_PAGES = {"report", "pages", "page", "demo", "routes", "http", "requests", "jobs"}
_FILES = {"card", "plots", "compare_page"}
"""Packages and modules that write pages and files or answer requests; these have one language."""
_TITLE = re.compile(r"[A-Z][a-z]+( [a-z]+)*|[A-Z]{2,}( [A-Z]+)*")
_SENTENCE = re.compile(r"[A-Z{][^\n]* [^\n]* [^\n]*[.?]")
_PLAIN_WORD = re.compile(r"""(?<![^\s('"}])[a-z]{2,}(?![^\s.,:;)'"{])""")
_CODE = re.compile(
    r"[|`<>#\[\]\n\t]|%[sd]|\bexpected\b|\w\(|^\{\{"
    r"|^(select|set local|insert|create|pragma|import|from \S+ import)\b"
)
_NO_PROSE = re.compile(
    r" \| None$|^bold |^danqing |^[0-9A-F]{2}[0-9A-F -]+$"  # annotations, styles, commands, code points
    r"|</?[a-z]+[ >/{]|^\s*[.#@\w-]+ ?\{\{|^\s*(SELECT|CREATE|INSERT|UPDATE|DELETE) "  # HTML, CSS, SQL
)

_ASSIGNMENTS = ast.AnnAssign | ast.AugAssign | ast.NamedExpr
_TEXTS = ast.Constant | ast.JoinedStr | ast.IfExp | ast.BinOp
_Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.Module


class Sources:
    """All modules of a package."""

    def __init__(self, root: Path) -> None:
        self.root = root
        files = sorted(root.rglob("*.py"))
        self.modules = {file.relative_to(root): ast.parse(file.read_text(encoding="utf-8")) for file in files}
        self._constants: dict[str, list[ast.expr]] = {}
        self._functions: dict[str, list[ast.FunctionDef]] = {}
        for tree in self.modules.values():
            for name, value in _assignments(tree):
                if name.strip("_").isupper():
                    self._constants.setdefault(name, []).append(value)
            for node in _nodes(tree):
                if isinstance(node, ast.FunctionDef) and "str" in ast.unparse(
                    node.returns or ast.Constant(0)
                ):
                    self._functions.setdefault(node.name, []).append(node)
        self._errors = self._error_classes()

    def _error_classes(self) -> set[str]:
        """The names of DanqingError and of what derives from it."""
        classes = [
            node for tree in self.modules.values() for node in _nodes(tree) if isinstance(node, ast.ClassDef)
        ]
        known = {"DanqingError"}
        while (
            more := {node.name for node in classes if any(_last_name(base) in known for base in node.bases)}
            - known
        ):
            known |= more
        return known

    def messages(self) -> Iterator[tuple[str, str, str]]:
        """Yield each template, with the package before it and the file after it."""
        for path, tree in self.modules.items():
            room = path.parts[0] if len(path.parts) > 1 else "base"
            if room == "locale" or set(path.parts[1:-1]) & _PAGES or path.stem in _FILES:
                continue
            module = _Module(self, tree, path.parts[0] in _SPOKEN)
            for template in module.templates():
                yield room, template, f"src/danqing/{path.as_posix()}"
        for file in sorted((self.root / "presets").glob("*.toml")):
            described = tomllib.loads(file.read_text(encoding="utf-8")).get("description", "")
            yield "presets", _escaped(described), f"src/danqing/presets/{file.name}"

    def is_error(self, call: ast.Call) -> bool:
        """Whether a call creates a DanqingError."""
        return _last_name(call.func) in self._errors

    def constants(self, name: str) -> list[ast.expr]:
        """Return what a constant of any module is."""
        return self._constants.get(name, [])

    def functions(self, name: str) -> list[ast.FunctionDef]:
        """Return the functions of a name that return text."""
        return self._functions.get(name, [])


class _Module:
    """The templates of one module."""

    def __init__(self, sources: Sources, tree: ast.Module, is_command: bool) -> None:
        self._sources = sources
        self._tree = tree
        self._is_command = is_command
        self._scopes = _scopes(tree)
        self._visited: set[int] = set()
        self._found: dict[str, None] = {}

    def templates(self) -> list[str]:
        inside = {
            id(part)
            for node in _nodes(self._tree)
            if isinstance(node, ast.JoinedStr)
            for part in ast.walk(node)
            if part is not node and isinstance(part, ast.Constant | ast.JoinedStr)
        }
        passive = {id(node.value) for node in _nodes(self._tree) if isinstance(node, ast.Expr)}
        for node in _nodes(self._tree):
            scope = self._scopes.get(id(node), self._tree)
            if isinstance(node, ast.Call):
                self._take(self._shown(node), scope)
            elif isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in inside | passive:
                self._take_text(node, scope)
            elif isinstance(node, ast.Dict) and self._is_command:
                keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
                self._keep(key for key in keys if isinstance(key, str) and _TITLE.fullmatch(key))
            elif isinstance(node, ast.Tuple | ast.List) and self._is_command:
                words = [item.value for item in node.elts if isinstance(item, ast.Constant)]
                self._keep(word for word in words if isinstance(word, str) and _TITLE.fullmatch(word))
            elif isinstance(node, ast.FunctionDef) and self._is_command and _is_command(node):
                self._keep(_paragraphs(ast.get_docstring(node) or ""))
        return list(self._found)

    def _shown(self, call: ast.Call) -> list[ast.expr]:
        """The arguments of a call that people read."""
        name = _last_name(call.func)
        if self._sources.is_error(call) or name in _FIRST:
            return call.args[:1]
        if name in _THIRD:
            return call.args[2:3] + [word.value for word in call.keywords if word.arg == "detail"]
        if name == "append" and isinstance(call.func, ast.Attribute):
            return call.args if _last_name(call.func.value) in _NOTED else []
        if (
            name == "__init__"
            and isinstance(call.func, ast.Attribute)
            and "super()" in ast.unparse(call.func)
        ):
            return call.args[:1]
        return []

    def _take(self, shown: Iterable[ast.expr], scope: _Scope) -> None:
        for expression in shown:
            self._keep(self._variants(expression, scope))

    def _take_text(self, node: ast.expr, scope: _Scope) -> None:
        """Keep a text that is shown somewhere: any words of a command, and sentences elsewhere."""
        texts = self._variants(node, scope)
        if self._is_command:
            self._keep(part for text in texts for part in _paragraphs(text) if " " in part or part[-1] == ":")
        else:
            self._keep(text for text in texts if _is_prose(text))

    def _keep(self, templates: Iterable[str]) -> None:
        for line in itertools.chain.from_iterable(template.splitlines() for template in templates):
            bare = line.strip()
            if is_specific(bare) and not _NO_PROSE.search(bare):
                self._found[bare] = None

    def _variants(self, node: ast.expr, scope: _Scope) -> list[str]:
        """All templates that an expression may result in."""
        if isinstance(node, ast.Constant):
            return [_escaped(node.value)] if isinstance(node.value, str) else []
        if isinstance(node, ast.JoinedStr):
            return self._of_fstring(node, scope)
        if isinstance(node, ast.IfExp):
            return self._variants(node.body, scope) + self._variants(node.orelse, scope)
        if isinstance(node, ast.BoolOp):
            return [text for value in node.values for text in self._variants(value, scope)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self._variants(node.left, scope), self._variants(node.right, scope)
            if not all(isinstance(side, _TEXTS) for side in (node.left, node.right)):  # lists, or unknown
                return left + right
            return ["".join(pair) for pair in itertools.product(left, right)]
        if isinstance(node, ast.NamedExpr | ast.Starred):
            return self._variants(node.value, scope)
        if isinstance(node, ast.List | ast.Tuple):
            return [text for item in node.elts for text in self._variants(item, scope)]
        if isinstance(node, ast.Dict):
            return [text for item in node.values for text in self._variants(item, scope)]
        if isinstance(node, ast.GeneratorExp | ast.ListComp):
            return self._variants(node.elt, scope)
        return self._defined(node, scope)

    def _defined(self, node: ast.expr, scope: _Scope) -> list[str]:
        """The templates of what a name, a constant or a function stands for."""
        if id(node) in self._visited:
            return []
        self._visited.add(id(node))
        name = _last_name(node)
        if isinstance(node, ast.Subscript):
            return self._defined(node.value, scope)
        if isinstance(node, ast.Call):
            return self._of_call(node, scope)
        if isinstance(node, ast.Name) and not isinstance(scope, ast.Module):
            local = [value for known, value in _assignments(scope) if known == name]
            if local:
                return [text for value in local for text in self._variants(value, scope)]
        if isinstance(node, ast.Name | ast.Attribute) and name.strip("_").isupper():
            own = [value for known, value in _assignments(self._tree) if known == name]
            values = own or self._sources.constants(name)
            return [text for value in values for text in self._variants(value, self._tree)]
        return []

    def _of_call(self, node: ast.Call, scope: _Scope) -> list[str]:
        name = _last_name(node.func)
        if isinstance(node.func, ast.Attribute) and name in (
            "join",
            "get",
            "rstrip",
            "removesuffix",
            "strip",
        ):
            asked = [*node.args, node.func.value] if name != "join" else node.args
            for part in asked:
                self._keep(text for text in self._variants(part, scope) if " " in text.strip())
            return []
        texts = []
        for function in self._sources.functions(name):
            if id(function) in self._visited:
                continue
            self._visited.add(id(function))
            for inner in _nodes(function):
                if isinstance(inner, ast.Return) and inner.value is not None:
                    texts += self._variants(inner.value, function)
        return [text for text in texts if " " in text.strip()]

    def _of_fstring(self, node: ast.JoinedStr, scope: _Scope) -> list[str]:
        names: dict[str, str] = {}
        parts: list[list[str]] = []
        count = 1
        for piece in node.values:
            if isinstance(piece, ast.Constant):
                parts.append([_escaped(str(piece.value))])
                continue
            assert isinstance(piece, ast.FormattedValue)
            value = piece.value
            choices = self._choices(value, scope) if piece.conversion == -1 else []
            if choices and count * len(choices) <= _MOST_VARIANTS:
                parts.append(choices)
                count *= len(choices)
                continue
            self._keep(text for text in self._variants(value, scope) if " " in text.strip())
            parts.append([_placeholder(piece, names)])
        return ["".join(chosen) for chosen in itertools.product(*parts)]

    def _choices(self, value: ast.expr, scope: _Scope) -> list[str]:
        """The texts that a value within a template is one of, where they are known; else nothing."""
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult):  # as in "s" * (count > 1)
            repeated = self._variants(value.left, scope) if isinstance(value.left, ast.Constant) else []
            return ["", *repeated] if repeated else []
        if isinstance(value, ast.Name | ast.Attribute) and _last_name(value).strip("_").isupper():
            visited = set(self._visited)
            texts = [] if id(value) in visited else self._defined(value, scope)
            self._visited = visited
            return texts if len(texts) == 1 and " " in texts[0] else []
        if not isinstance(value, ast.IfExp):
            return []
        branches = (value.body, value.orelse)
        if not all(isinstance(branch, ast.Constant | ast.JoinedStr | ast.IfExp) for branch in branches):
            return []
        return self._variants(value, scope)


def _placeholder(piece: ast.FormattedValue, names: dict[str, str]) -> str:
    """The named placeholder of a value; names: those of the template, by their expressions."""
    expression = ast.unparse(piece.value) + ast.unparse(piece.format_spec or ast.Constant(""))
    if expression not in names:
        name = _name_of(piece.value).strip("_") or "value"
        taken = set(names.values())
        numbered = (f"{name}_{number}" for number in itertools.count(2))
        names[expression] = (
            name if name not in taken else next(each for each in numbered if each not in taken)
        )
    form = ""
    if isinstance(piece.format_spec, ast.JoinedStr) and all(
        isinstance(part, ast.Constant) for part in piece.format_spec.values
    ):
        form = "".join(str(part.value) for part in piece.format_spec.values if isinstance(part, ast.Constant))
    return f"{{{names[expression]}:{form}}}" if form else f"{{{names[expression]}}}"


def _name_of(node: ast.AST) -> str:
    """A name for a value, from the last name in its expression."""
    if isinstance(node, ast.Call) and node.args:
        return _name_of(node.args[0])
    if isinstance(node, ast.BoolOp):
        return _name_of(node.values[-1])
    if isinstance(node, ast.IfExp):
        return _name_of(node.body)
    if isinstance(node, ast.BinOp):
        return _name_of(node.left)
    if isinstance(node, ast.GeneratorExp | ast.ListComp | ast.SetComp):
        return _name_of(node.generators[0].iter)
    return _last_name(node)


def _last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Call):
        return _last_name(node.func.value if isinstance(node.func, ast.Attribute) else node.func)
    if isinstance(node, ast.Subscript | ast.Starred | ast.NamedExpr | ast.Await):
        return _last_name(node.value)
    return ""


@functools.cache
def _assignments(scope: ast.AST) -> tuple[tuple[str, ast.expr], ...]:
    """Each name that a scope assigns, with its value."""
    return tuple(_assigned(scope))


def _assigned(scope: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    body = scope.body if isinstance(scope, ast.Module) else _nodes(scope)
    for node in body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.value
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts, strict=False)
                    yield from ((name.id, value) for name, value in pairs if isinstance(name, ast.Name))
        elif isinstance(node, _ASSIGNMENTS) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".append"):
            yield from ((_last_name(node.func.value), value) for value in node.args)  # type: ignore[attr-defined]


def _scopes(tree: ast.Module) -> dict[int, _Scope]:
    """The function that each node is in, by the node's identity; nodes of the module have none."""
    found: dict[int, _Scope] = {}
    for function in _nodes(tree):  # those inside of others come after them
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            found.update((id(node), function) for node in _nodes(function) if node is not function)
    return found


@functools.cache
def _nodes(tree: ast.AST) -> list[ast.AST]:
    """All nodes of a tree, the outer ones first. It is faster than `ast.walk`, which also yields contexts."""
    found = [tree]
    for node in found:
        for value in vars(node).values():
            if isinstance(value, ast.AST):
                if not isinstance(value, ast.expr_context):
                    found.append(value)
            elif isinstance(value, list):
                found += [item for item in value if isinstance(item, ast.AST)]
    return found


def _is_command(function: ast.FunctionDef) -> bool:
    """Whether Typer calls a function, which its parameters or decorators say."""
    arguments = [*function.args.args, *function.args.kwonlyargs]
    hints = " ".join(ast.unparse(each.annotation) for each in arguments if each.annotation)
    return any(word in hints for word in ("typer.", "Option", "Argument"))


def _paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a text for people, without commands, which are indented."""
    for part in text.split("\n\n"):
        if part.strip() and not part.startswith("  "):
            yield " ".join(part.split())


def _is_prose(text: str) -> bool:
    """Whether a text is a sentence, or a part of one of three words or more."""
    words = re.sub(r"\{[^{}]*\}", "{}", text)
    return bool(_SENTENCE.fullmatch(text)) or (
        len(_PLAIN_WORD.findall(words)) > 2 and not _CODE.search(words)
    )


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
