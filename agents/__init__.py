"""Learners and reference policies for the DynaLay environments.

They see an environment through Gymnasium's interface, `observation_layout` and the
documented info keys only. Reading order: policy, returns, losses, rollout,
policy_gradient; sb3_vec_env, sb3; baselines, evaluation, report, store.
"""
