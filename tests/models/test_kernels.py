"""The compiled kernels and the torch ones give the same numbers, and their backwards are the gradients of their forwards."""

import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional

from luthier.models.kernels import Cut
from luthier.models.kernels.compiled import Compiled, library
from luthier.models.kernels.plain import Plain

T, D, F, H, K, W = 37, 48, 80, 6, 2, 8
PIECES = [5, 1, 20, 11]


@pytest.fixture(scope="module", params=["torch", "compiled"])
def run(request):
    """Either kind. They run inside an autograd function, so without a graph of their own."""
    if request.param == "torch":
        return Plain()
    found = library()
    if found is None:
        pytest.skip("no C++ compiler here")
    return Compiled(found)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request):
    return request.param


def draw(*shape, dtype, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(autouse=True)
def _no_graph():
    with torch.no_grad():
        yield


def cut():
    sizes = np.array(PIECES)
    starts = np.cumsum(sizes) - sizes
    return Cut(torch.from_numpy(np.repeat(starts, sizes)), torch.from_numpy(np.repeat(sizes, sizes)))


def close(found, wanted):
    tolerance = 3e-6 if found.dtype == torch.float32 else 1e-2
    assert (found.float() - wanted.float()).norm() <= tolerance * wanted.float().norm()


@torch.enable_grad()
def gradient(function, x, g):
    x = x.float().requires_grad_()
    function(x).backward(g.float())
    return x.grad


def test_rms_norm(run, dtype):
    x, w, g, through = (draw(*shape, dtype=dtype, seed=i) for i, shape in enumerate([(T, D), (D,), (T, D), (T, D)]))
    scale = torch.empty(T)
    close(run.rms_norm(x, w, 1e-5, scale), functional.rms_norm(x.float(), (D,), w.float(), 1e-5))
    wanted = gradient(lambda y: functional.rms_norm(y, (D,), w.float(), 1e-5), x, g) + through.float()
    close(run.rms_norm_back(g, x, scale, w, through), wanted)


def test_swiglu(run, dtype):
    gate_up, d = draw(T, 2 * F, dtype=dtype) * 4, draw(T, F, dtype=dtype, seed=1)

    def plain(x):
        return functional.silu(x[:, :F]) * x[:, F:]

    wanted = gradient(plain, gate_up, d)
    close(run.swiglu(gate_up), plain(gate_up.float()))
    product = d.clone()
    close(run.swiglu_back(product, gate_up), wanted)
    close(product, plain(gate_up.float()))


def plain_split(qkv, cos, sin):
    x = qkv.view(T, H + 2 * K, W)
    a, b = x.chunk(2, dim=-1)
    turned = x * cos[:, None] + torch.cat([-b, a], -1) * sin[:, None]
    return turned[:, :H] * 0.5, turned[:, H : H + K], x[:, H + K :]


def by_pieces(x_THW):
    return torch.cat([part.transpose(0, 1).reshape(-1) for part in x_THW.split(PIECES)]).view(x_THW.shape)


def test_heads_are_split_and_joined(run, dtype):
    qkv, half = draw(T, (H + 2 * K) * W, dtype=dtype), draw(T, W // 2, dtype=dtype, seed=1)
    cos, sin = torch.cat([half.cos()] * 2, -1), torch.cat([half.sin()] * 2, -1)
    q, k, v = torch.empty(T, H, W, dtype=dtype), torch.empty(K, T, W, dtype=dtype), torch.empty(K, T, W, dtype=dtype)
    run.split_heads(qkv, cos, sin, cut(), q, k, v, 0.5)
    wanted = plain_split(qkv.float(), cos.float(), sin.float())
    close(q, by_pieces(wanted[0]))
    close(k, wanted[1].transpose(0, 1))
    close(v, wanted[2].transpose(0, 1))
    gq, gk, gv = draw(T, H, W, dtype=dtype, seed=2), draw(K, T, W, dtype=dtype, seed=3), draw(K, T, W, dtype=dtype, seed=4)

    def summed(x):
        parts = plain_split(x, cos.float(), sin.float())
        laid = by_pieces(parts[0]), parts[1].transpose(0, 1), parts[2].transpose(0, 1)
        return sum((part * g.float()).sum() for part, g in zip(laid, (gq, gk, gv), strict=True))

    x = qkv.float().requires_grad_()
    with torch.enable_grad():
        summed(x).backward()
    close(run.join_heads(gq, gk, gv, cos, sin, cut(), 0.5), x.grad)


def test_there_and_back_by_pieces(run, dtype):
    g, out = draw(T, H * W, dtype=dtype), draw(T, H * W, dtype=dtype, seed=1)
    pieces, delta = run.to_pieces(g, out, cut(), H)
    assert torch.equal(pieces, by_pieces(g.view(T, H, W)))
    close(delta, by_pieces((g.float() * out.float()).view(T, H, W).sum(-1, keepdim=True)).flatten())
    back = torch.empty_like(g)
    run.from_pieces(pieces, cut(), back)
    assert torch.equal(back, g)


@pytest.mark.parametrize(("n", "seen"), [(9, 9), (9, 40), (1, 33), (20, 20)])
def test_causal_softmax(run, dtype, n, seen):
    scores, dp = draw(K, 3 * n, seen, dtype=dtype) * 3, draw(K, 3 * n, seen, dtype=dtype, seed=1)
    hidden = torch.ones(n, seen, dtype=torch.bool).triu_(seen - n + 1).repeat(3, 1)

    def plain(x):
        return torch.softmax(x.masked_fill(hidden, float("-inf")), dim=-1)

    p, logsum = scores.clone(), torch.empty(K * 3 * n)
    run.causal_softmax(p, logsum, n)
    close(p, plain(scores.float()))
    again, ds = scores.clone(), dp.clone()
    run.causal_softmax_back(again, ds, logsum, (plain(scores.float()) * dp.float()).sum(-1).flatten(), n)
    close(again, plain(scores.float()))
    close(ds, gradient(plain, scores, dp))


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false"])
def test_without_a_compiler_that_works_torch_does_it(compiler, monkeypatch, tmp_path):
    from luthier.models.kernels.compiled import library

    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    assert library() is None


def test_a_c_compilers_driver_makes_them_too(monkeypatch, tmp_path):
    from luthier.models.kernels.compiled import library

    if shutil.which("gcc") is None:
        pytest.skip("no gcc here")
    monkeypatch.setenv("CXX", "gcc")  # it links no C++ library
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    assert library() is not None


def test_kernels_are_compiled_once(monkeypatch, tmp_path):
    from luthier.models.kernels.compiled import library

    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    first = library()
    if first is None:
        pytest.skip("no C++ compiler here")
    made = first.stat().st_mtime_ns
    assert library() == first
    assert first.stat().st_mtime_ns == made
    monkeypatch.setenv("LUTHIER_HOME", "/proc/nowhere")
    assert library() is None, "a home that cannot be written is no reason to stop"


@pytest.mark.parametrize(("softcap", "window"), [(0.0, 0), (2.0, 0), (0.0, 6)])
def test_paged(run, dtype, softcap, window):
    counts = torch.tensor([1, 9, 23])
    places = torch.randperm(60, generator=torch.Generator().manual_seed(3)).to(torch.int32)
    q, keys, values = draw(3, H, W, dtype=dtype), draw(60, K, W, dtype=dtype, seed=1), draw(60, K, W, dtype=dtype, seed=2)
    table = torch.stack([places[:23], places[20:43], places[30:53]])
    found = run.paged(q, keys, values, table, counts, softcap=softcap, window=window)
    for row, count in enumerate(counts.tolist()):
        seen = table[row, max(0, count - window) if window else 0 : count].long()
        k, v = (x[seen].float().repeat_interleave(H // K, 1) for x in (keys, values))
        scores = torch.einsum("hw,shw->hs", q[row].float(), k)
        scores = softcap * torch.tanh(scores / softcap) if softcap else scores
        close(found[row], torch.einsum("hs,shw->hw", scores.softmax(-1), v))
