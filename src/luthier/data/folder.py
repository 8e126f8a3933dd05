"""What a model folder says about text: tokenizer, special tokens, chat templates, end tokens. Read once, written with the tuned model."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from luthier.core.files import write_json, write_text
from luthier.data.eyes import LAYOUT, SEEING
from luthier.data.hearing import HEARD, HEARERS, SAID, TRANSCRIBERS
from luthier.data.patches import CLASSIFIERS, one_piece
from luthier.data.plain import ENCODERS
from luthier.data.sources import STARTS, TRANSLATORS
from luthier.data.tokenizer import Tokenizer, read_json, special_texts


@dataclass(slots=True)
class Parts:
    """The pieces of a renderer, as found on disk.

    Attributes:
        variables: special tokens by their template name (``bos_token`` ...).
        templates: Jinja text by name: ``default``, perhaps ``tool_use``.
        ends: ids that end an answer, by the model's files. end: the first of them to use where a template writes none.
        prefix: ids the tokenizer puts before a plain text.
        reads: what a row is to the model: ``turns`` of a conversation, a ``text`` as it stands (`luthier.data.plain`), a ``source`` of a
            target (`luthier.data.sources`), or a ``picture``, ``sound`` or ``speech``. model: what of config.json
            decides how rows are laid out. processor: preprocessor_config.json.
        config, generation: contents of tokenizer_config.json and generation_config.json.
    """

    where: str
    tokenizer: Tokenizer
    variables: dict[str, Any]
    templates: dict[str, str]
    ends: set[int]
    end: int | None
    prefix: list[int]
    config: dict[str, Any]
    generation: dict[str, Any]
    reads: str = "turns"
    model: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What decides token ids, as plain fields for another process. (The two files are only there to be written again.)"""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {
            "tokenizer": self.tokenizer.content.decode(),
            "ends": sorted(self.ends),
            "config": {},
            "generation": {},
        }

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Parts:
        """What `to_json` told."""
        return cls(**{**told, "tokenizer": Tokenizer(told["tokenizer"].encode()), "ends": set(told["ends"])})


def read_parts(folder: Path) -> Parts:
    """Read a folder in the Hugging Face layout; files that are not there say nothing.

    Raises:
        ModelError: no tokenizer, or a file that cannot be read.
    """
    model = read_json(folder / "config.json")
    reads = _reads(model)
    sees, hears = reads == "picture" or model.get("model_type") in SEEING, reads in ("sound", "speech")
    laid = LAYOUT if sees else HEARD if hears else STARTS if reads == "source" else ()
    tokenizer = one_piece() if reads in ("picture", "sound") else Tokenizer.load(folder)
    config, generation = read_json(folder / "tokenizer_config.json"), read_json(folder / "generation_config.json")
    variables = special_texts(folder)
    ends = [*_ids(tokenizer.id_of(variables.get("eos_token", ""))), *_ids(generation.get("eos_token_id")), *_ids(model.get("eos_token_id"))]
    ends = [end for end in ends if 0 <= end < tokenizer.size]
    if "eos_token" not in variables and ends:
        variables["eos_token"] = tokenizer.text_of(ends[0])
    begin = tokenizer.id_of(variables.get("bos_token", ""))
    for number in [] if begin is not None else _ids(model.get("bos_token_id")):
        if number < tokenizer.size:
            begin, variables["bos_token"] = number, tokenizer.text_of(number)
    return Parts(
        where=str(folder),
        tokenizer=tokenizer,
        variables=variables,
        templates=_templates(folder, config),
        ends=set(ends),
        end=ends[0] if ends else None,
        prefix=_prefix(tokenizer, begin, config.get("add_bos_token")),
        config=config,
        generation=generation,
        reads=reads,
        model={key: model[key] for key in laid if key in model}
        | {key: generation[key] for key in (SAID if reads == "speech" else ()) if generation.get(key) is not None},
        processor=read_json(folder / "preprocessor_config.json") if sees or hears else {},
    )


def _reads(model: dict[str, Any]) -> str:
    kind = model.get("model_type")
    kinds = {"text": ENCODERS, "picture": CLASSIFIERS, "source": TRANSLATORS, "sound": HEARERS, "speech": TRANSCRIBERS}
    return next((name for name, known in kinds.items() if kind in known), "turns")


def write_parts(parts: Parts, folder: Path, *, templates: dict[str, str], ends: frozenset[int]) -> None:
    """Write everything `read_parts` reads, with the templates and end tokens as they were used (none where text is read as it stands)."""
    folder.mkdir(parents=True, exist_ok=True)
    if parts.processor:
        write_json(folder / "preprocessor_config.json", parts.processor)
    if parts.reads in ("picture", "sound"):
        return
    parts.tokenizer.save(folder)
    config = {key: value for key, value in parts.config.items() if key != "chat_template"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **parts.variables, **config}
    write_json(folder / "tokenizer_config.json", config)
    if parts.reads in ("text", "source", "speech"):
        return
    write_json(
        folder / "generation_config.json",
        {**parts.generation, **read_json(folder / "generation_config.json"), "eos_token_id": sorted(ends)},
    )
    write_text(folder / "chat_template.jinja", templates["default"])
    for name in templates.keys() - {"default"}:
        write_text(folder / "additional_chat_templates" / f"{name}.jinja", templates[name])


def _templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    inline = config.get("chat_template")
    found: dict[str, str] = {}
    if isinstance(inline, str):
        found["default"] = inline
    elif isinstance(inline, list):
        found |= {
            str(entry["name"]): str(entry["template"])
            for entry in inline
            if isinstance(entry, dict) and {"name", "template"} <= entry.keys()
        }
    if (folder / "chat_template.jinja").is_file():
        found["default"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if (folder / "additional_chat_templates" / "tool_use.jinja").is_file():
        found["tool_use"] = (folder / "additional_chat_templates" / "tool_use.jinja").read_text(encoding="utf-8")
    return {name: found[name] for name in ("default", "tool_use") if name in found}


def _ids(value: object) -> list[int]:
    """Token ids from a field that may be an id, a list of ids, or nothing."""
    values = value if isinstance(value, list) else [value]
    return [number for number in values if isinstance(number, int) and not isinstance(number, bool)]


def _prefix(tokenizer: Tokenizer, begin: int | None, wanted: object) -> list[int]:
    if begin is None or wanted is None:
        return list(tokenizer.prefix)
    others = [number for number in tokenizer.prefix if number != begin]
    return [begin, *others] if wanted else others
