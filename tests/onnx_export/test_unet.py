"""The U-Net that refines the masks of the bundled model."""

from dataclasses import replace

import pytest
import torch

from onnx_export.networks.mini import MiniModel
from onnx_export.networks.unet import MaskUNet
from tests.support.training_recipe import MODEL


def _told() -> tuple[torch.Tensor, ...]:
    frames, width = 7, MODEL.latent_channels
    state, heard = torch.randn(1, frames, 2 * width), torch.randn(1, frames, width)
    text, mask = torch.randn(1, 3, MODEL.text.dim), torch.ones(1, 3, dtype=torch.bool)
    return state, torch.full((1,), 0.3), heard, text, mask, torch.zeros(1, frames, dtype=torch.long)


def test_what_takes_over_a_model_without_it_answers_as_that_did() -> None:
    torch.manual_seed(0)
    plain = MiniModel(MODEL).eval()
    torch.nn.init.normal_(plain.velocity.transformer.output.weight, std=0.1)
    refined = MiniModel(replace(MODEL, refine_width=4)).eval()
    refined.take_over(plain)
    given = _told()
    torch.testing.assert_close(refined.velocity(*given), plain.velocity(*given))
    assert refined.velocity.refine is not None
    torch.nn.init.normal_(refined.velocity.refine.last.weight, std=0.1)
    assert not torch.allclose(refined.velocity(*given), plain.velocity(*given))
    with pytest.raises(ValueError, match="refine_width=4"):
        plain.take_over(refined)


@pytest.mark.parametrize(("frames", "channels"), [(1, 2), (7, 50), (16, 64), (33, 129)])
def test_it_takes_any_number_of_frames_and_coefficients(frames: int, channels: int) -> None:
    net = MaskUNet(features=3, masks=2, width=4, channels=channels, condition_dim=8)
    out = net(torch.randn(2, 3, frames, channels), torch.randn(2, 8))
    assert out.shape == (2, 2, frames, channels)


def test_what_is_asked_changes_what_it_says() -> None:
    torch.manual_seed(0)
    net = MaskUNet(features=3, masks=2, width=4, channels=64, condition_dim=8)
    seen = torch.randn(1, 3, 16, 64)
    asked, other = torch.randn(2, 1, 8)
    torch.nn.init.normal_(net.last.weight, std=0.1)
    # Before training nothing does: every layer is neither scaled nor shifted.
    torch.testing.assert_close(net(seen, asked), net(seen, other))
    for unit in (*net.down, *net.up):
        torch.nn.init.normal_(unit.modulation.weight, std=0.1)
    assert not torch.allclose(net(seen, asked), net(seen, other), atol=0.05)
