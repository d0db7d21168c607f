"""The elastic network of the built-in model: prefixes, packing, the tie to transformers."""

import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from pocket import model as net  # noqa: E402
from pocket.generate import evaluation_scenes  # noqa: E402

SMALL = net.Config(vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=96)
TOLERANCE = 1e-5


@pytest.fixture
def small() -> net.ElasticLlama:
    torch.manual_seed(0)
    return net.ElasticLlama(SMALL).eval()


def test_the_published_model_has_5_6_million_parameters() -> None:
    count = sum(p.numel() for p in net.ElasticLlama(net.Config()).parameters())
    assert count == 5_639_424


def test_random_widths_stay_in_range() -> None:
    rng = random.Random(0)
    drawn = [w for _ in range(200) for w in net.random_widths(SMALL, rng)]
    assert {w.heads for w in drawn} == set(range(1, SMALL.num_heads + 1))
    assert all(w.ff % net.FF_STEP == 0 and 0 < w.ff <= SMALL.intermediate_size for w in drawn)


def test_a_prefix_equals_the_model_with_the_rest_set_to_zero(small: net.ElasticLlama) -> None:
    tokens = torch.arange(10)[None]
    cut = small(tokens, [net.Width(2, 32)] * 2)
    for layer in small.model.layers:
        layer.self_attn.o_proj.weight.data[:, 2 * SMALL.head_dim :] = 0
        layer.mlp.down_proj.weight.data[:, 32:] = 0
    assert torch.allclose(small(tokens), cut, atol=TOLERANCE)


def test_packed_choices_score_as_each_alone(small: net.ElasticLlama) -> None:
    scoring = pytest.importorskip("pocket.scoring")
    prompt, choices = [1, 2, 3, 4], [[5, 6], [7], [8, 9, 10]]
    together = scoring.choice_scores(small, scoring.pack(prompt, choices))
    alone = [scoring.choice_scores(small, scoring.pack(prompt, [c]))[0] for c in choices]
    assert together == pytest.approx(alone, abs=TOLERANCE)


def test_full_width_logits_equal_transformers(small: net.ElasticLlama, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(**SMALL.to_hf(0, 4))
    peer = transformers.LlamaForCausalLM(config).eval()
    peer.load_state_dict(small.state_dict(), strict=False)
    tokens = torch.randint(0, SMALL.vocab_size, (2, 20))
    assert torch.allclose(small(tokens), peer(tokens).logits, atol=TOLERANCE)


def test_prompts_are_50_to_600_tokens_of_a_tokenizer_of_the_recipe() -> None:
    tokens = pytest.importorskip("pocket.tokens")
    from pocket.chat import CONTROL_TOKENS, render
    from pocket.generate import training_conversations
    from pocket.scene import APPS

    texts = map(render, training_conversations(300))
    tokenizer = tokens.train_tokenizer(texts, vocab_size=1024)
    assert [tokenizer.token_to_id(t) for t in CONTROL_TOKENS] == list(range(len(CONTROL_TOKENS)))
    strange = "h\u00e9llo \u4f60\u597d \U0001f389 it's\n\n  x\t"
    assert tokenizer.decode(tokenizer.encode(strange).ids) == strange
    for app in APPS:
        for scene in evaluation_scenes(app, 40):
            assert 50 <= len(tokenizer.encode(render(scene.prompt(), ask=True)).ids) <= 650
