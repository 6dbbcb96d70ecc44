"""Names that settings may have, and limits that are told before anything is loaded.

They stand apart from what they name so that the command line's help, and its refusal of a mistyped
option, need neither torch nor another library; nothing is imported here.
"""

SAMPLERS = ("posterior", "ode", "implicit")
"""How one step is taken, see :func:`asyncdsb.samplers.sample`."""

GRIDS = ("log", "uniform", "clock")
"""Spacings of the steps, see :func:`asyncdsb.samplers.time_grid`."""

SOLVER_ORDERS = (1, 2)
"""The paper's steps, and those of second order, see :func:`asyncdsb.bridge.extrapolated`."""

STRATEGIES = ("gradient", "ranked", "flat-first", "uniform", "inward")
"""Eq. 11; by ranks, see :func:`asyncdsb.schedule.tau_map`; Eq. 11 with its range turned round;
:func:`asyncdsb.schedule.uniform_tau`; :func:`asyncdsb.schedule.inward_tau`."""

FINISHES = ("none", "patches")
"""What the bridge restores, or known patches in its place, see :mod:`asyncdsb.photo.patches`."""

MASK_KINDS = ("center", "half", "wide", "narrow", "freeform")
"""Masks that :func:`asyncdsb.masks.make_mask` draws."""

MAX_PIXELS = 64_000_000
"""Width times height of the largest photograph that is decoded."""
