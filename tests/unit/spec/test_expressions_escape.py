"""No Python object is reachable: the classic payloads against template engines, and everything that looks like them."""

from __future__ import annotations

import pytest

from flowmason_ray.errors import ExpressionError
from flowmason_ray.spec.expressions import DictScope, ExpressionSyntaxError, StageView, parse_expression


class Config:
    """What a web framework would hand to its templates."""

    SECRET = "s3cret"
    items_called = False

    def items(self) -> str:
        Config.items_called = True
        return self.SECRET

    def __getitem__(self, key: object) -> str:
        raise AssertionError("an opaque object was asked for a member")


def a_function() -> str:
    raise AssertionError("a function of the scope was called")


SCOPE = DictScope(
    {
        "input": {"text": "x", "list": [1], "object": {"k": 1}, "config": Config(), "f": a_function},
        "config": Config(),
        "f": a_function,
        "stages": {"a": StageView({"x": 1})},
    }
)

PAYLOADS = [
    "''.__class__",
    "''.__class__.__mro__[1].__subclasses__()",
    "''['__class__']",
    "''|attr('__class__')",
    "()|attr('__class__')|attr('__base__')",
    "[].__class__.__base__.__subclasses__()",
    "{}.__class__.__mro__",
    "().__class__.__bases__[0]",
    "(1).__class__",
    "1.0.__class__",
    "true.__class__",
    "none.__class__",
    "''.__class__.__mro__[2].__subclasses__()[40]('/etc/passwd').read()",
    "config.__class__.__init__.__globals__['os'].popen('id').read()",
    "config.SECRET",
    "config['SECRET']",
    "config.items()",
    "config.__dict__",
    "config|items",
    "config|list",
    "config|string",
    "config|tojson",
    "config ~ ''",
    "input.config.SECRET",
    "input.config|jmespath('SECRET')",
    "input|jmespath('config.SECRET')",
    "input|jmespath('to_string(config)')",
    "input|jmespath('config.__class__.to_string(@)')",
    "[config]|map(attribute='SECRET')|list",
    "[config]|map(attribute='__class__')|list",
    "[config]|selectattr('SECRET')|list|tojson",
    "[config]|sort(attribute='SECRET')",
    "[config]|join",
    "[config]|sum(attribute='SECRET')",
    "[input]|map(attribute='config.SECRET')|list",
    "f()",
    "input.f()",
    "input['f']()",
    "f.__globals__",
    "f.__code__",
    "f.func_globals",
    "[f][0]()",
    "(f)()",
    "[1]|map('f')",
    "[1]|map(f)",
    "[f]|map('string')|list",
    "self",
    "self.__init__.__globals__",
    "self._TemplateReference__context",
    "cycler.__init__.__globals__.os.popen('id').read()",
    "joiner.__init__.__globals__",
    "namespace.__init__.__globals__",
    "lipsum.__globals__['os'].popen('id').read()",
    "request.application.__globals__.__builtins__.__import__('os')",
    "url_for.__globals__",
    "get_flashed_messages.__globals__",
    "__import__('os').system('id')",
    "eval('1')",
    "exec('1')",
    "open('/etc/passwd').read()",
    "getattr('', 'x')",
    "vars()",
    "globals()",
    "locals()",
    "dir('')",
    "type('')",
    "isinstance(1, 2)",
    "help()",
    "'{0.__class__}'.format(1)",
    "'{0.__class__}'|format(1)",
    "'%(a)s'|format(a=1)",
    "'%c' % 65",
    "'x'.format_map({})",
    "'x'.encode('utf8')",
    "'x'.translate({})",
    "'x'.__add__('y')",
    "'x'.__len__()",
    "[].append(1)",
    "[].pop()",
    "{}.update({})",
    "{}.setdefault('a', 1)",
    "{}.__setitem__('a', 1)",
    "[].__reduce_ex__(2)",
    "stages.a.__class__",
    "stages.a['__class__']",
    "stages.__class__",
    "stages.a.output.__class__",
    "stages.a.__slots__",
    "input.text.__class__.__name__",
    "input.list.sort.__self__",
    "input.object.get.__self__",
    "input.object.keys.__class__",
    "now.__self__",
    "range.__class__",
    "range(1).start",
    "input.text|attr('upper')",
    "input.text|xmlattr",
    "input.text|pprint",
    "input.text|urlize",
    "input.object|groupby('k')",
    "x|map('attr', '__class__')",
    "[''] | map('attr', '__class__') | list",
    "[''] | map(attribute='__class__') | list",
    "[''] | map(attribute='__class__.__mro__') | list",
    "[[1]] | map(attribute='append') | list",
    "(''|d).__class__",
    "('' if true else '').__class__",
    "'a'[0].__class__",
    "lambda: 1",
    "[x for x in [1]]",
    "x := 1",
    "yield 1",
    "input.text.upper.__call__()",
]


def test_the_corpus_is_large_and_has_no_repetition() -> None:
    assert len(PAYLOADS) == len(set(PAYLOADS)) >= 60


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payload_reaches_nothing(payload: str) -> None:
    shown = ""
    try:
        result = parse_expression(payload).evaluate(SCOPE)
    except (ExpressionError, ExpressionSyntaxError) as error:
        shown = error.message
    else:
        assert result in (None, [], "null", "[]")  # a query that finds nothing
    assert "s3cret" not in shown
    assert not Config.items_called


@pytest.mark.parametrize("name", [n for n in dir("") + dir([]) + dir({}) + dir(1) if n.startswith("_")])
def test_no_dunder_of_any_value_is_there(name: str) -> None:
    for target in ("''", "[]", "{}", "(1)", "none", "config", "stages.a"):
        expression = parse_expression(f"{target}.{name} is defined")
        assert expression.evaluate(SCOPE) is False
