"""Weight decay pulls what it is asked to."""

import pytest
import torch

from icpo_core.config import UpdateSection, build, stored
from icpo_core.run.stages import update
from icpo_core.trainer import decay


@pytest.mark.parametrize("norms", [False, True])
def test_norms_and_biases_decay_only_if_asked(norms: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    model[1].bias.data.fill_(1.0)
    settings = UpdateSection(weight_decay=0.1, decay_norms=norms)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(decay.groups(model, settings), lr=0.5, weight_decay=0.1)
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    for name, value in model.named_parameters():
        shrunk = 0.95 if name == "0.weight" or norms else 1.0
        torch.testing.assert_close(value.detach(), before[name] * shrunk)


def test_without_decay_there_is_one_group_and_nothing_in_the_fingerprint() -> None:
    assert len(decay.groups(torch.nn.LayerNorm(4), UpdateSection())) == 1
    raw = {"prompts": {"problems": "p", "demonstrations": "d"}}
    plain = build(raw, "x")
    assert "decay_norms" not in update.settings(plain)["update"]
    raw |= {"update": {"weight_decay": 0.1}}
    assert stored(raw, "x").update.decay_norms
    decayed = build(raw, "x")
    assert update.settings(decayed)["update"]["decay_norms"] is False
