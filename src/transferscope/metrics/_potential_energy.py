"""PED, potential-energy decline: let overlapping classes push each other apart before scoring.

Fine-tuning moves classes that overlap in the pre-trained features away from each other. PED
foretells this cheaply: every class is a ball in feature space, balls that overlap repel like
springs, and a few steps of that motion say where fine-tuning would begin to take the classes.
It needs class means, variances and counts only, and gives one displacement per class.

Li, Hu, Ge, Shan & Duan, "Exploring Model Transferability through the Lens of Potential Energy",
ICCV 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

from transferscope.embedding import ClassMoments, ClassStatistics
from transferscope.errors import InputError
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array

#: A feature that varies less than this counts as varying this much.
SMALLEST_DEVIATION = 1e-3


@dataclass(frozen=True)
class Decline:
    """Where potential-energy decline takes the classes.

    Attributes
    ----------
    displacement : (C, d) float64
        What every sample of a class moves by, in the units of the features.
    energies : tuple of float
        Potential energy ``Σ_{a<b} ½ k o_ab²`` of the standardised classes before the first step and
        after each step taken: one more than steps.
    movements : tuple of float
        Sum of the absolute coordinates that the classes moved by, of each step taken.
    """

    displacement: Array
    energies: tuple[float, ...]
    movements: tuple[float, ...]

    @property
    def n_steps(self) -> int:
        """Number of steps taken."""
        return len(self.movements)


def potential_energy_decline(
    moments: ClassMoments | ClassStatistics,
    deviation: Array | None = None,
    *,
    nu: float = 0.6,
    step: float = 0.1,
    exit_ratio: float = 0.5,
    stiffness: float = 1.0,
    max_steps: int = 6,
) -> Decline:
    r"""Displace classes that overlap, by the motion that their repulsion gives them.

    Features are standardised; class a then has centre ``m_a`` and radius ``R_a``, the root of its
    summed variances. In every step each pair overlaps by ``o = max(ν (R_a + R_b) - |m_a - m_b|,
    0)`` and a moves away from b by ``min(½ Δt² k o, o)``, straight along ``m_a - m_b``; a class
    moves by the sum over its partners. A step that would move the classes, all in all, by no more
    than `exit_ratio` of the first is not taken and ends it.

    Parameters
    ----------
    moments : ClassMoments or ClassStatistics
        Of the data set: `counts`, `means` and `within_squares` are used and not modified. Classes
        without samples neither move nor repel.
    deviation : array of shape (d,), optional
        Standard deviation of each feature on a reference task, which the features are divided by;
        by default their own. No less than 1e-3 is taken.
    nu : float
        ν, the share of the radius that counts as the class's extent.
    step : float
        Δt, duration of a step.
    exit_ratio : float
        See above, in [0, 1).
    stiffness : float
        k, force per overlap.
    max_steps : int
        At most so many steps.

    Returns
    -------
    Decline

    Raises
    ------
    InputError
        If a parameter is out of its range or `deviation` has another shape.

    Notes
    -----
    Cost: O(C² d) time and O(C² + C d) memory per step: with ``w_ab`` the pair's displacement over
    its distance, the sum over partners is ``(Σ_b w_ab) m_a - Σ_b w_ab m_b``, a matrix product. The
    authors' code builds two C x C x d arrays (16 GB each at C = 1000, d = 2048).

    The reference task's mean plays no part: a shift of all features changes no distance. Centres
    that coincide (to rounding, about 1e-7 of their distance from the centre of all classes) exert
    no force on each other, where the authors' code gives NaN; where no pair overlaps, nothing moves
    and no step is taken.

    Examples
    --------
    Two balls of radius 1 (ν = 1) at distance 1.5 overlap by 0.5; Δt = 1 moves each by half of it.

    >>> from transferscope import ClassMoments
    >>> from transferscope.metrics import potential_energy_decline
    >>> features = np.array([[-1.0], [1.0], [0.5], [2.5]])
    >>> moments = ClassMoments.from_arrays(features, np.array([0, 0, 1, 1]))
    >>> decline = potential_energy_decline(moments, np.ones(1), nu=1.0, step=1.0)
    >>> decline.displacement.ravel().tolist(), decline.energies
    ([-0.25, 0.25], (0.125, 0.0))

    References
    ----------
    Li et al., ICCV 2023 (arXiv 2308.15074).
    """
    if not (nu > 0 and step > 0 and stiffness > 0 and 0 <= exit_ratio < 1 and max_steps >= 0):
        raise InputError(
            "nu, step and stiffness must be positive, exit_ratio in [0, 1) and max_steps not "
            f"negative, got {nu}, {step}, {stiffness}, {exit_ratio} and {max_steps}."
        )
    xp = arrays.namespace(moments.means)
    if deviation is None:
        deviation = own_deviation(moments)
    n_features = int(moments.means.shape[1])
    if tuple(deviation.shape) != (n_features,):
        raise InputError(
            f"deviation must hold one value per feature, shape {(n_features,)}, got "
            f"{tuple(deviation.shape)}."
        )
    scale = xp.where(deviation > SMALLEST_DEVIATION, deviation, SMALLEST_DEVIATION)
    present = moments.counts > 0
    counts = xp.where(present, moments.counts, 1.0)
    radii = xp.sqrt(xp.sum(moments.within_squares / scale**2, axis=1) / counts)
    start = (moments.means - _mean(moments)) / scale
    start = xp.where(present[:, None], start, 0.0)

    centres = start
    movements: list[float] = []
    overlap, inverse = _overlaps(centres, nu * radii, present)
    energies = [_energy(overlap, stiffness)]
    while len(movements) < max_steps and energies[-1] > 0:
        pull = min(0.5 * step**2 * stiffness, 1.0) * overlap * inverse
        move = xp.sum(pull, axis=1)[:, None] * centres - pull @ centres
        movement = float(xp.sum(xp.abs(move)))
        if movement <= exit_ratio * (movements[0] if movements else 0.0):
            break
        centres = centres + move
        movements.append(movement)
        overlap, inverse = _overlaps(centres, nu * radii, present)
        energies.append(_energy(overlap, stiffness))
    return Decline((centres - start) * scale, tuple(energies), tuple(movements))


def own_deviation(moments: ClassMoments | ClassStatistics) -> Array:
    """Standard deviation of each feature over all samples, (d,) float64."""
    xp = arrays.namespace(moments.means)
    between = (moments.means - _mean(moments)) ** 2
    squares = xp.sum(moments.within_squares, axis=0) + moments.counts @ between
    return xp.sqrt(squares / xp.sum(moments.counts))


def _mean(moments: ClassMoments | ClassStatistics) -> Array:
    """Mean of all samples, (d,)."""
    return moments.counts @ moments.means / arrays.namespace(moments.means).sum(moments.counts)


def _overlaps(centres: Array, extents: Array, present: Array) -> tuple[Array, Array]:
    """How far each pair of classes overlaps, and one over its distance: (C, C) each.

    Both are zero for a class with itself, with one that has no sample, or with one that sits on the
    same spot.
    """
    xp = arrays.namespace(centres)
    squares = xp.sum(centres * centres, axis=1)
    lengths = squares[:, None] + squares[None, :]
    distance = lengths - 2 * (centres @ centres.T)
    # below this a squared distance is what rounding leaves of zero
    rounding = 4 * int(centres.shape[1]) * float(xp.finfo(xp.float64).eps)
    own = xp.eye(int(centres.shape[0]), dtype=xp.bool, device=arrays.device_of(centres))
    apart = (distance > rounding * lengths) & ~own & present[:, None] & present[None, :]
    distance = xp.sqrt(xp.where(apart, distance, 1.0))
    overlap = extents[:, None] + extents[None, :] - distance
    overlap = xp.where(apart & (overlap > 0), overlap, 0.0)
    return overlap, 1 / distance


def _energy(overlap: Array, stiffness: float) -> float:
    """Σ_{a<b} ½ k o_ab²."""
    return stiffness * float(arrays.namespace(overlap).sum(overlap * overlap)) / 4
