"""Chat templates by jinja2 itself: the same environment, and so the same text, as transformers' ``apply_chat_template``.

One difference, on purpose: ``strftime_now`` answers `TODAY`, a fixed date. Templates that write the date (Llama 3.2) would otherwise give
other token ids each day, and no run could be resumed or reproduced.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.utils
from jinja2.sandbox import ImmutableSandboxedEnvironment

from luthier.core.errors import DataError

TODAY = datetime.datetime(2024, 7, 26)
"""The date every template sees. Its value is the one that Llama 3's own templates fall back to."""

CHATML = """{#- luthier chatml template 1 -#}
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}\
{% if message['tool_calls'] %}{{ message['tool_calls'] | tojson }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""Built-in template for a model that has none, when its tokenizer knows ChatML's two tokens."""

PLAIN = """{#- luthier plain template 1 -#}
{% if tools %}{{ 'Tools:\\n' + tools | tojson + '\\n\\n' }}{% endif %}\
{% for message in messages %}{{ message['role'] | capitalize + ':\\n' + message['content'] }}\
{% if message['tool_calls'] %}{{ message['tool_calls'] | tojson }}{% endif %}\
{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}"""
"""Built-in template for any other model that has none: plain words, and the model's own end token after each answer."""

PLAIN_BEGUN = PLAIN.replace("-#}\n", "-#}\n{{ bos_token }}", 1)
"""`PLAIN` for a tokenizer that puts a begin-of-text token before every text."""

BUILT_IN = frozenset({CHATML, PLAIN, PLAIN_BEGUN})
"""Templates of ours: safe, and a sign that the model itself has none."""


class _Generation(jinja2.ext.Extension):
    """The ``{% generation %}`` tag, which marks the assistant's words for trainers that mask by it; its body is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as a plain class attribute

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        """Render what is between the tags in a scope of its own, as transformers does."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class Namespace(jinja2.utils.Namespace):
    """A namespace that refuses names which begin with an underscore: they lead to the interpreter's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            Namespace._refuse_private(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        Namespace._refuse_private(name)
        super().__setitem__(name, value)

    @staticmethod
    def _refuse_private(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"A chat template may not store {name!r} on a namespace.")


def _refuse(message: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Dict:
    """`dict` without its other attributes, so that a template cannot climb from it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


Environment = ImmutableSandboxedEnvironment


def prepared(kind: type[Environment]) -> Environment:
    """An environment with everything a chat template may use."""
    environment = kind(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = TODAY.strftime
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = Namespace
    return environment


@lru_cache(maxsize=64)
def compiled(source: str) -> jinja2.Template:
    """The template as code. Compiling already computes constants (``9**9999999``): only for templates that `probe.approve` has passed."""
    return prepared(Environment).from_string(source)


class Template:
    """One chat template: messages to text.

    Args:
        source: the Jinja text.
        variables: what the template may name besides messages and tools: ``bos_token``, ``eos_token`` ...
    """

    def __init__(self, source: str, *, variables: dict[str, Any]) -> None:
        self.source, self.variables = source, variables
        self.hash = hashlib.sha256(source.encode()).hexdigest()

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] = (),
        generate: bool,
        by: jinja2.Template | None = None,
    ) -> str:
        """The text of a conversation.

        Args:
            messages: turns in the shape that `luthier.data.shape.Shape.messages` makes.
            generate: end with the opening of the assistant's next turn.
            by: the template as compiled in another environment (`data.outline`).

        Raises:
            DataError: the template refuses this conversation; the message is the template's own.
        """
        try:
            return (by or compiled(self.source)).render(
                messages=list(messages), tools=list(tools) or None, documents=None, add_generation_prompt=generate, **self.variables
            )
        except (
            jinja2.exceptions.TemplateError,
            TypeError,
            ValueError,
            KeyError,
            AttributeError,
            IndexError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise DataError(
                f"The model's chat template refuses this conversation: {error}.",
                remedy="Change the row's roles or fields to what the model knows, or leave the row out.",
                code="template_refuses",
            ) from error


def has_developer(source: str) -> bool:
    """Whether a template knows OpenAI's ``developer`` role; for the others it is shown as ``system``."""
    return "developer" in source
