"""What every room's tests may ask for."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from postgres import Cluster, NoPostgres


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data, corpora and models that lie beside the repository; tests that need them are skipped where they are absent."""
    folder = Path(os.environ.get("LUTHIER_SHARED") or Path(__file__).parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set LUTHIER_SHARED")
    return folder


TINY_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 320,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
"""A network small enough to be made in milliseconds; tests change what they are about."""

TINY_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_renderer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A byte-level tokenizer without merges and a ChatML template: reads anything, in 259 pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from luthier.data.render import Renderer

    folder = tmp_path_factory.mktemp("renderer")
    pieces = ["<|pad|>", "<|im_end|>", "<|im_start|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(pieces[:3])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(TINY_TEMPLATE)
    return Renderer.from_folder(folder)


@pytest.fixture(scope="session")
def tiny_model(tiny_renderer: Any) -> Callable[..., Any]:
    """Make a small model from random weights: ``tiny_model(model_type="qwen3", seed=3, dtype="float32")``."""
    from luthier.models.load import fresh

    def make(*, seed: int = 0, dtype: str = "float32", name: str = "tiny", **changes: Any) -> Any:
        return fresh(TINY_CONFIG | changes, renderer=tiny_renderer, seed=seed, dtype=dtype, name=name)

    return make


TINY_ENCODER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 320,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}


@pytest.fixture(scope="session")
def plain_renderer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The bytes of `tiny_renderer`, between [CLS] and [SEP]: how encoders read."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    from luthier.data.render import Renderer

    folder = tmp_path_factory.mktemp("plain")
    pieces = ["[PAD]", "[CLS]", "[SEP]", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(pieces[:3])
    around = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1", "special_tokens": [("[CLS]", 1), ("[SEP]", 2)]}
    tokenizer.post_processor = processors.TemplateProcessing(**around)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"sep_token": "[SEP]", "cls_token": "[CLS]", "pad_token": "[PAD]"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return Renderer.from_folder(folder)


@pytest.fixture(scope="session")
def tiny_encoder(plain_renderer: Any) -> Callable[..., Any]:
    """Make a small encoder from random weights: ``tiny_encoder("roberta", "RobertaForMaskedLM", seed=3)``."""
    from luthier.models.load import fresh

    def make(model_type: str = "bert", architecture: str = "BertModel", *, seed: int = 0, dtype: str = "float32", **changes: Any) -> Any:
        config = TINY_ENCODER | {"model_type": model_type, "architectures": [architecture]} | changes
        return fresh(config, renderer=plain_renderer, seed=seed, dtype=dtype, name="tiny")

    return make


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """PostgreSQL, started by the first test that asks for it; each worker of xdist has its own."""
    try:
        running = Cluster.start()
    except NoPostgres as reason:
        pytest.skip(str(reason))
    yield running
    running.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Whoever asks for a database is tested on both kinds."""
    return str(request.param)


_NUMBERS = itertools.count()


@pytest.fixture
def empty_database_url(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a database without any table."""
    if database_kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'luthier.db'}"
        return
    cluster = request.getfixturevalue("cluster")
    name = f"empty{next(_NUMBERS)}"
    yield cluster.create(name)
    cluster.drop(name)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables, to be copied."""
    from luthier.store.upgrade import open_database

    file = tmp_path_factory.mktemp("database") / "template.db"
    open_database(f"sqlite:///{file}").close()
    return file


@pytest.fixture(scope="session")
def postgres_template(cluster: Cluster) -> str:
    """A database with all tables, to be copied."""
    from luthier.store.upgrade import open_database

    open_database(cluster.create("template_luthier")).close()
    return "template_luthier"


@pytest.fixture
def database_url(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a database with all tables and nothing in them."""
    if database_kind == "sqlite":
        shutil.copyfile(request.getfixturevalue("sqlite_template"), tmp_path / "luthier.db")
        yield f"sqlite:///{tmp_path / 'luthier.db'}"
        return
    template, cluster = request.getfixturevalue("postgres_template"), request.getfixturevalue("cluster")
    name = f"test{next(_NUMBERS)}"
    yield cluster.create(name, template=template)
    cluster.drop(name)


@pytest.fixture
def database(database_url: str) -> Iterator[Any]:
    """An open `Database` with all tables and nothing in them."""
    from luthier.store.database import Database

    opened = Database.connect(database_url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-block Llama with the bundled tokenizer and template, saved in the Hugging Face layout."""
    from luthier.data.render import Renderer
    from luthier.models.catalog import BUNDLED
    from luthier.models.load import fresh, save

    config = json.loads((BUNDLED / "luthier-mini" / "config.json").read_text())
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save(fresh({**config, **small}, renderer=Renderer.from_folder(BUNDLED / "luthier-mini"), seed=1, dtype="float32"), folder)
    return folder
