"""Finding, loading, making and saving models, and everything a bad folder gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from luthier.core.errors import ModelError, NotFound
from luthier.core.files import sha256
from luthier.models.find import find, local_models
from luthier.models.load import load, load_folder, reload, save
from luthier.models.sight import Sight
from luthier.models.slot import place

Make = Callable[..., Any]
TOKENS_T = torch.tensor([5, 9, 77, 31, 8, 250, 4, 64, 12, 90])


def logits(model: Any) -> Tensor:
    length = len(TOKENS_T)
    sight = Sight(np.full(length, length), np.arange(length))
    return model.head()(model.states(tokens_T=TOKENS_T, positions_T=torch.arange(length), sight=sight)).detach()


@pytest.fixture
def folder(tiny_model: Make, tmp_path: Path) -> Path:
    save(tiny_model(seed=4), tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_saved_is_loaded_again_by_us_and_by_transformers(folder: Path, tiny_model: Make) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made, loaded = tiny_model(seed=4), load(str(folder), dtype="float32")
    assert torch.equal(logits(loaded), logits(made))
    assert (loaded.name, loaded.folder, loaded.context, loaded.dtype) == (str(folder), folder, 128, torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(str(folder), attn_implementation="eager")
    torch.testing.assert_close(theirs(TOKENS_T[None]).logits[0], logits(made), rtol=1e-4, atol=1e-6)
    text = AutoTokenizer.from_pretrained(str(folder)).apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "<|im_start|>user\nhi<|im_end|>\n"


def test_a_model_is_loaded_frozen_quiet_and_without_dropout(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change(folder, attention_dropout=0.3)
    model = load(str(folder))
    assert model.config.attention_dropout == 0
    assert not model.network.training
    assert model.num_trained == 0
    assert capfd.readouterr() == ("", "")


def test_random_weights_follow_from_the_seed_alone(tiny_model: Make) -> None:
    torch.manual_seed(1)
    one = tiny_model(seed=9)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    same, other = tiny_model(seed=9), tiny_model(seed=10)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's randomness moves"
    assert torch.equal(logits(one), logits(same))
    assert not torch.equal(logits(one), logits(other))


def test_bfloat16_keeps_the_rotary_frequencies_exact(folder: Path, tiny_model: Make) -> None:
    for model in (load(str(folder), dtype="bfloat16"), tiny_model(dtype="bfloat16")):
        assert {p.dtype for p in model.network.parameters()} == {torch.bfloat16}
        assert {b.dtype for b in model.network.buffers()} == {torch.float32}


def test_saving_is_deterministic_and_tied_weights_are_saved_once(tiny_model: Make, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(tiny_model(tie_word_embeddings=True), tmp_path / name)
    assert sha256(tmp_path / "one" / "model.safetensors") == sha256(tmp_path / "two" / "model.safetensors")
    assert "lm_head.weight" not in load_file(tmp_path / "one" / "model.safetensors")
    assert load(str(tmp_path / "one")).tied


def test_experts_are_saved_one_by_one_as_their_makers_do(tiny_model: Make, tmp_path: Path) -> None:
    """In memory the experts of a block are one weight; on disk every tool expects each by its name."""
    made = tiny_model(model_type="mixtral", num_local_experts=4, num_experts_per_tok=2)
    save(made, tmp_path / "model")
    names = load_file(tmp_path / "model" / "model.safetensors").keys()
    assert "model.layers.1.block_sparse_moe.experts.3.w2.weight" in names
    assert torch.equal(logits(load(str(tmp_path / "model"), dtype="float32")), logits(made))


def test_weights_that_are_views_of_one_buffer_are_saved_whole(tiny_model: Make, tmp_path: Path) -> None:
    """The optimiser makes trained weights views of one flat buffer."""
    model = tiny_model()
    expected = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    flat, offset = torch.cat([p.detach().reshape(-1) for p in model.network.parameters()]), 0
    for p in model.network.parameters():
        p.data = flat[offset : offset + p.numel()].view(p.shape)
        offset += p.numel()
    save(model, tmp_path / "model")
    saved = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.items())
    assert (tmp_path / "model" / "model.safetensors").stat().st_size < flat.numel() * 4 + 10_000


def test_a_network_with_slots_is_not_saved_as_plain(tiny_model: Make, tmp_path: Path) -> None:
    model = tiny_model()
    place(model.network, "model.layers.0.mlp.up_proj")
    with pytest.raises(AssertionError, match="merge or restore first"):
        save(model, tmp_path / "model")


def test_reload_gives_the_untouched_base(folder: Path) -> None:
    model = load(str(folder), context=64)
    before = logits(model)
    with torch.no_grad():
        model.head().weight.zero_()
    again = reload(model)
    assert torch.equal(logits(again), before)
    assert again.context == 64


def test_a_real_model(shared: Path) -> None:
    """Trained on stories, it finds a story likelier than the same words in another order."""
    model = load(str(shared / "models" / "stories260k"), dtype="float32")

    def nats(text: str) -> float:
        tokens_T = torch.tensor([1, *model.renderer.encode(text)])
        length = len(tokens_T)
        states = model.states(tokens_T=tokens_T, positions_T=torch.arange(length), sight=Sight(np.full(length, length), np.arange(length)))
        return torch.nn.functional.cross_entropy(model.head()(states[:-1]), tokens_T[1:], reduction="sum").item()

    story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    assert nats(story) < 60
    assert nats(" ".join(reversed(story.split()))) > 2 * nats(story)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, r"auto_map = .* is refused. Luthier never runs code"),
        ({"attn_implementation": "someone/kernel"}, "attn_implementation = .* does not choose its kernels"),
        ({"_attn_implementation": "eager"}, "_attn_implementation = .* does not choose its kernels"),
        ({"text_config": {"_experts_implementation": "a/b"}}, "text_config._experts_implementation = .* does not choose"),
        ({"quantization_config": {"bits": 4}}, "Packed weights are not read yet"),
        ({"model_type": "mamba"}, "of type 'mamba' is not one Luthier tunes yet"),
        ({"model_type": None}, "does not say its model_type"),
        ({"hidden_size": "wide"}, "transformers does not accept this config"),
        ({"num_hidden_layers": 3}, "9 weights are missing: model.layers.2"),
        ({"num_hidden_layers": 1}, "9 weights are unexpected: model.layers.1"),
        ({"intermediate_size": 40}, "6 weights are mismatched"),
        ({"vocab_size": 100}, "2 weights are mismatched: lm_head.weight, model.embed_tokens.weight"),
    ],
)
def test_a_config_that_is_wrong_or_asks_too_much_is_refused(changes: dict[str, Any], text: str, folder: Path) -> None:
    change(folder, **changes)
    with pytest.raises(ModelError, match=text):
        load(str(folder))


@pytest.mark.parametrize("harmless", [{"cache_implementation": "hybrid"}, {"_attn_implementation_autoset": True}, {"auto_map": None}])
def test_what_only_looks_alike_is_read(harmless: dict[str, Any], folder: Path) -> None:
    change(folder, **harmless)
    assert load(str(folder)).num_parameters


def test_broken_and_missing_files(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        load(str(folder))
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickled \(pytorch_model.bin\), and a pickle can run any code"):
        load(str(folder))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"There is no \*.safetensors file"):
        load(str(folder))


def test_no_config_and_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="This is not JSON"):
        load(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"There is no config.json"):
        load(str(folder))


def test_an_adapter_is_not_applied_unasked(folder: Path) -> None:
    """transformers applies an adapter that lies beside a model, where peft is installed."""
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="This is an adapter, not a model"):
        load(str(folder))


def test_a_context_longer_than_the_model_reads_is_refused(folder: Path) -> None:
    assert load(str(folder), context=100).context == 100
    with pytest.raises(ModelError, match=r"A context of 129 tokens was asked for, but .* reads 128"):
        load(str(folder), context=129)


def test_names(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    with pytest.raises(NotFound, match=r"no model 'luthier-mni' here. Did you mean luthier-mini\?"):
        find("luthier-mni")
    with pytest.raises(NotFound, match=r"is not on this machine. Fetch it once with: luthier models no-one/nothing-here --download"):
        find("no-one/nothing-here")
    (tmp_path / "home" / "models").mkdir(parents=True)
    folder.rename(tmp_path / "home" / "models" / "mine")
    assert find("mine") == tmp_path / "home" / "models" / "mine"
    assert ("mine", tmp_path / "home" / "models" / "mine") in local_models()
    assert load_folder(find("mine")).name == "mine"


def test_a_tokenizer_that_knows_more_than_the_embedding_is_refused(tiny_model: Make) -> None:
    with pytest.raises(ModelError, match="The tokenizer knows 259 tokens, the embedding 200"):
        tiny_model(vocab_size=200)
