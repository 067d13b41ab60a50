"""Linear layers: what the formats make of a product, and that rows keep to themselves."""

import pytest
import torch

from services.generator.backend.linear import DenseLinear, Int8Linear, make_linear


def inputs(rows: int, *, into: int = 48, out: int = 33) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    noise = torch.Generator().manual_seed(0)
    return (
        torch.randn(rows, into, generator=noise),
        torch.randn(out, into, generator=noise),
        torch.randn(out, generator=noise),
    )


@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-5), ("bf16", 0.02), ("int8", 0.02)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 200])
def test_every_format_computes_the_product(precision: str, error: float, biased: bool, rows: int) -> None:
    x, weight, bias = inputs(rows)
    wanted = torch.nn.functional.linear(x, weight, bias if biased else None)
    layer = make_linear(weight, bias if biased else None, precision=precision)
    found = layer(x.bfloat16() if precision == "bf16" else x).float()
    assert (layer.out_features, layer.in_features) == (33, 48)
    assert (found - wanted).norm() < error * wanted.norm()


def test_an_int8_row_is_the_same_to_the_bit_whatever_its_mates() -> None:
    x, weight, bias = inputs(64)
    layer = Int8Linear(weight, bias)
    x[1::2] *= 1000  # a common scale would drown the others
    together = layer(x)
    for row in (0, 1, 31, 62):
        assert torch.equal(layer(x[row : row + 1])[0], together[row])
        assert torch.equal(layer(x[row:])[0], together[row])


def test_int8_takes_rows_of_zeros_and_of_any_size() -> None:
    x, weight, _ = inputs(4)
    x[0] = 0
    x[1] *= 1e-12
    x[2] *= 1e12
    found = Int8Linear(weight)(x)
    assert torch.equal(found[0], torch.zeros(33))
    wanted = DenseLinear(weight)(x)
    for row in (1, 2, 3):
        assert (found[row] - wanted[row]).norm() < 0.02 * wanted[row].norm()


def test_int8_takes_output_channels_of_zeros() -> None:
    x, weight, _ = inputs(3)
    weight[5] = 0
    assert torch.equal(Int8Linear(weight)(x)[:, 5], torch.zeros(3))


def test_what_is_no_number_spoils_its_own_row_only() -> None:
    x, weight, _ = inputs(3)
    clean = Int8Linear(weight)(x)
    x[1, 4] = torch.nan
    found = Int8Linear(weight)(x)
    assert not found[1].isfinite().any()
    assert torch.equal(found[[0, 2]], clean[[0, 2]])
