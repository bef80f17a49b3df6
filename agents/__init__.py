"""Learners for the DynaLay environments, one folder each; used from the checkout.

They see an environment through Gymnasium's interface, `observation_layout` and the
documented info keys only. Reading order: config, base, registry; deep_start;
policy_gradient; exact, sb3; saving, options, environments; training_run, joint_run,
run.
"""
