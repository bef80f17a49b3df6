"""What the papers claim of their experiments, and controls.

Controls are comparisons that the papers do not make and that decide whether a claim
means something.
"""

from benchmarks.paper.networks import PLAIN
from benchmarks.paper.relation_values import (
    Relation,
    above,
    accuracy,
    at_end,
    at_one_point,
    backward_speed,
    below_bound,
    compute_saved,
    correlations,
    earns_more_than,
    full_loss_falls,
    iterated,
    least_lead,
    of_samples,
    rarer,
    reward_settles,
    share_of_layers,
    worst_layer,
)
from benchmarks.paper.selective import BEFORE, CHOSEN, ON_THE_WAY, PLAIN_PASSES

_CNN, _DEQS = "3-layer CNN", ("DEQ Anderson", "DEQ Broyden")
_PRE, _SCRATCH, _LONGER = "pre-trained", "from scratch", "longer"
RELATIONS = (
    above(
        "table1",
        "DynaLay's backward passes are faster than the CNN's",
        "s/epoch",
        ("DynaLay", _CNN),
        backward_speed,
    ),
    *(
        above(
            "table1",
            f"the CNN's backward passes are faster than {deq}'s",
            "s/epoch",
            (_CNN, deq),
            backward_speed,
        )
        for deq in _DEQS
    ),
    *(
        above(
            "table1",
            f"DynaLay is more accurate than {other}",
            "points",
            ("DynaLay", other),
            accuracy,
            is_control=other not in (_CNN, *_DEQS),
        )
        for other in (_CNN, *_DEQS, "all layers", "entropy rule", "random")
    ),
    Relation(
        "fig2",
        "the test loss, all layers iterated, falls from the first to the last epoch",
        "nats",
        ("main network",),
        full_loss_falls,
    ),
    *(
        Relation("fig3", claim, "points", ("ppo",), rarer(choice))
        for choice, claim in (
            (1, "to stop is chosen more often than layer 1 (each input stops once)"),
            (2, "layer 1 is chosen more often than layer 2"),
            (3, "layer 2 is chosen more often than layer 3"),
        )
    ),
    above(
        "fig4",
        "pre-trained is more accurate at the end than from scratch",
        "points",
        (_PRE, _SCRATCH),
        at_end("accuracy"),
    ),
    above(
        "fig4",
        "the same, from scratch with as many steps of the network",
        "points",
        (_PRE, _LONGER),
        at_end("accuracy"),
        is_control=True,
    ),
    above(
        "fig4",
        "pre-trained ends with a lower loss, all layers iterated, than from scratch",
        "nats",
        (_PRE, _SCRATCH),
        lambda row: -at_end("full")(row),
    ),
    Relation(
        "fig4",
        "pre-trained is more accurate throughout (its least lead)",
        "points",
        (_PRE, _SCRATCH),
        least_lead,
    ),
    Relation(
        "fig5",
        "the reward settles: at the break-even penalty it changes by less than a tenth "
        "of its rise over the last quarter",
        "reward",
        ("1",),
        reward_settles,
    ),
    above(
        "fig5",
        "layers are chosen more often at 0.25 than at 4 break-evens",
        "points",
        ("0.25", "4"),
        share_of_layers,
    ),
    *(
        above(
            "fig6",
            f"Model 3 is more accurate than {other}",
            "points",
            ("Model 3", other),
            of_samples("all"),
        )
        for other in ("Model 0", "Model 1", "Model 2")
    ),
    above(
        "fig6",
        "Model 3 is more accurate than Model 0 on 100 samples",
        "points",
        ("Model 3", "Model 0"),
        of_samples("few"),
    ),
    *(
        above(
            "fig7",
            f"layer 3 iterated: {claim} than {other}",
            unit,
            ("layer 3", other),
            iterated(key, sign),
        )
        for other in (PLAIN, "layer 1", "layer 2", "all")
        for claim, unit, key, sign in (
            ("more accurate", "points", "accuracy", 1),
            ("a lower loss", "nats", "loss", -1),
        )
    ),
    Relation(
        "cost",
        "the agent takes less extra compute than iterating everything",
        "%",
        ("ppo",),
        compute_saved,
    ),
    *(
        Relation(
            "cost",
            f"the agent's return is above that of {policy}",
            "reward",
            ("ppo",),
            earns_more_than(policy),
            is_control=True,
        )
        for policy in ("nop", "always", "random-mix", "entropy", "max-prob")
    ),
    Relation(
        "difficulty",
        "inputs with a higher loss get more compute (rank correlation)",
        "",
        ("ppo",),
        correlations,
    ),
    Relation(
        "theory",
        "errors are below the a-priori bound (1 − largest error / bound, worst layer)",
        "",
        ("main network",),
        worst_layer(below_bound),
    ),
    Relation(
        "theory",
        "ten random starts end at one point (1 − distance / allowed one, worst layer)",
        "",
        ("main network",),
        worst_layer(at_one_point),
    ),
    above(
        "selective",
        "backward passes through chosen layers are faster than the plain network's",
        "s/epoch",
        (CHOSEN, PLAIN_PASSES),
        backward_speed,
    ),
    above(
        "selective",
        "what learns through chosen layers is more accurate than before",
        "points",
        (CHOSEN, BEFORE),
        accuracy,
    ),
    above(
        "selective",
        "and than what learns through every layer on the way",
        "points",
        (CHOSEN, ON_THE_WAY),
        accuracy,
        is_control=True,
    ),
    above(
        "lcnet_cifar10",
        "LC-Net, trained to half of the MACs, is more accurate than the whole network",
        "points",
        ("LC 0.5", "whole"),
        accuracy,
    ),
    *(
        above(
            "lcnet_cifar10",
            f"LC-Net is more accurate than {other}-Net, both trained to half",
            "points",
            ("LC 0.5", f"{other} 0.5"),
            accuracy,
            is_control=True,
        )
        for other in ("L", "C", "LC-static")
    ),
)
