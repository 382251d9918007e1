"""modeq: modified equations of optimizers, derived, integrated, and projected on symmetries.

The whole public surface is the table below; each name is imported when it is first used,
so that ``import modeq`` loads neither sympy, scipy, torch nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "errors": (
        "Diverged",
        "IllPosed",
        "InvalidCharge",
        "InvalidMethod",
        "InvalidNotation",
        "InvalidOrder",
        "InvalidProblem",
        "InvalidSetting",
        "InvalidSeries",
        "InvalidTree",
        "MissingDependency",
        "ModeqError",
        "NoClosedLaw",
        "NoTimeDerivativeForm",
        "NotAGradientFlow",
        "NotZeroStable",
        "OutsideSeriesLimit",
        "SweepFailed",
        "UnsupportedOptimizer",
    ),
    "methods.base": ("GeneralLinearMethod",),
    "methods.descent": ("GradientDescent",),
    "methods.from_torch": ("method_from_torch",),
    "methods.traced": ("method_from",),
    "methods.momentum": (
        "ClassicalNesterov",
        "HeavyBall",
        "Nesterov",
        "OptimisticGradient",
        "PID",
        "QuasiHyperbolic",
        "TripleMomentum",
    ),
    "methods.games": ("Alternating", "Simultaneous"),
    "methods.minibatches": ("Epoch",),
    "methods.multistep": ("LinearMultistep",),
    "methods.runge_kutta": ("Extragradient", "ImplicitEuler", "RungeKutta"),
    "symbolic.rooted_trees": ("Tree", "trees"),
    "symbolic.fields_and_maps": ("BSeriesField", "BSeriesMap"),
    "symbolic.equation": ("ModifiedEquation", "modified_equation"),
    "symbolic.memoryless": ("MemorylessMap", "memoryless_map"),
    "symbolic.modifying": ("ModifyingEquation", "modifying_equation"),
    "symbolic.scheduled": ("scheduled_equation", "scheduled_time_derivative_form"),
    "symbolic.scheduled_forms": ("ScheduledEquation", "ScheduledTimeDerivativeForm"),
    "symbolic.stochastic": ("StochasticEquation", "stochastic_equation"),
    "symbolic.expected_equation": ("ExpectedEquation",),
    "symbolic.temporal": ("TimeDerivativeForm", "time_derivative_form"),
    "symbolic.state_space": ("StateSpaceForm", "state_space_form"),
    "symbolic.phase_space": ("PhaseSpaceForm", "phase_space_form"),
    "numeric.protocol": ("Problem",),
    "numeric.symbolic_problems": ("SymbolicProblem", "VectorField"),
    "numeric.numpy_problem": ("NumpyProblem",),
    "numeric.torch_problem": ("TorchProblem",),
    "numeric.trajectory": ("Status", "Trajectory"),
    "numeric.iteration": ("iterate",),
    "numeric.paths": ("Paths",),
    "numeric.sampling": ("sample_iterates",),
    "numeric.stochastic_flow": ("simulate",),
    "numeric.exact_flow": ("exact_quadratic_flow",),
    "numeric.flows": ("flow",),
    "numeric.comparison": ("compare",),
    "numeric.comparison_result": ("Comparison",),
    "numeric.sweeps": ("Sweep", "sweep"),
    "numeric.orders": ("ObservedOrder", "observed_order"),
    "symmetry.affine_charges": ("AffineSymmetry",),
    "symmetry.charge_equation": ("ChargeEquation",),
    "symmetry.charges": ("DiagonalSymmetry", "Rescale", "Scale", "Translation"),
    "symmetry.continuous": ("damping_regime",),
    "symmetry.counting": ("count_conservation_laws",),
    "symmetry.laws": ("SGDStep",),
    "symmetry.matrix_charges": ("GeneralLinear", "Rotation"),
    "symmetry.finding": ("find_charges",),
    "symmetry.found": ("Charges",),
    "symmetry.balance": ("Balance", "balance"),
    "symmetry.equilibrium": ("Equilibrium", "equilibrium"),
    "symmetry.noise": ("GradientNoise", "gradient_noise"),
    "symmetry.projection": ("project",),
    "symmetry.tracking": ("Tracker", "track"),
    "symmetry.verification": ("Verification", "verify"),
    "studies": ("Study", "study"),
}
_MODULES = {"plots": "plots", "problems": "numeric.problems", "testing": "testing"}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted([*_HOME, *_MODULES, "__version__"])


if not TYPE_CHECKING:  # so that a type checker reports an unknown name

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return import_module(f"{__name__}.{_MODULES[name]}")
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from modeq import testing as testing
    from modeq.errors import *
    from modeq.methods.base import GeneralLinearMethod as GeneralLinearMethod
    from modeq.methods.descent import GradientDescent as GradientDescent
    from modeq.methods.from_torch import method_from_torch as method_from_torch
    from modeq.methods.games import Alternating as Alternating
    from modeq.methods.games import Simultaneous as Simultaneous
    from modeq.methods.minibatches import Epoch as Epoch
    from modeq.methods.momentum import PID as PID
    from modeq.methods.momentum import ClassicalNesterov as ClassicalNesterov
    from modeq.methods.momentum import HeavyBall as HeavyBall
    from modeq.methods.momentum import Nesterov as Nesterov
    from modeq.methods.momentum import OptimisticGradient as OptimisticGradient
    from modeq.methods.momentum import QuasiHyperbolic as QuasiHyperbolic
    from modeq.methods.momentum import TripleMomentum as TripleMomentum
    from modeq.methods.multistep import LinearMultistep as LinearMultistep
    from modeq.methods.runge_kutta import Extragradient as Extragradient
    from modeq.methods.runge_kutta import ImplicitEuler as ImplicitEuler
    from modeq.methods.runge_kutta import RungeKutta as RungeKutta
    from modeq.methods.traced import method_from as method_from
    from modeq.numeric import problems as problems
    from modeq.numeric.comparison import compare as compare
    from modeq.numeric.comparison_result import Comparison as Comparison
    from modeq.numeric.exact_flow import exact_quadratic_flow as exact_quadratic_flow
    from modeq.numeric.flows import flow as flow
    from modeq.numeric.iteration import iterate as iterate
    from modeq.numeric.numpy_problem import NumpyProblem as NumpyProblem
    from modeq.numeric.orders import ObservedOrder as ObservedOrder
    from modeq.numeric.orders import observed_order as observed_order
    from modeq.numeric.paths import Paths as Paths
    from modeq.numeric.protocol import Problem as Problem
    from modeq.numeric.sampling import sample_iterates as sample_iterates
    from modeq.numeric.stochastic_flow import simulate as simulate
    from modeq.numeric.sweeps import Sweep as Sweep
    from modeq.numeric.sweeps import sweep as sweep
    from modeq.numeric.symbolic_problems import SymbolicProblem as SymbolicProblem
    from modeq.numeric.symbolic_problems import VectorField as VectorField
    from modeq.numeric.torch_problem import TorchProblem as TorchProblem
    from modeq.numeric.trajectory import Status as Status
    from modeq.numeric.trajectory import Trajectory as Trajectory
    from modeq.studies import Study as Study
    from modeq.studies import study as study
    from modeq.symbolic.equation import ModifiedEquation as ModifiedEquation
    from modeq.symbolic.equation import modified_equation as modified_equation
    from modeq.symbolic.expected_equation import ExpectedEquation as ExpectedEquation
    from modeq.symbolic.fields_and_maps import BSeriesField as BSeriesField
    from modeq.symbolic.fields_and_maps import BSeriesMap as BSeriesMap
    from modeq.symbolic.memoryless import MemorylessMap as MemorylessMap
    from modeq.symbolic.memoryless import memoryless_map as memoryless_map
    from modeq.symbolic.modifying import ModifyingEquation as ModifyingEquation
    from modeq.symbolic.modifying import modifying_equation as modifying_equation
    from modeq.symbolic.phase_space import PhaseSpaceForm as PhaseSpaceForm
    from modeq.symbolic.phase_space import phase_space_form as phase_space_form
    from modeq.symbolic.rooted_trees import Tree as Tree
    from modeq.symbolic.rooted_trees import trees as trees
    from modeq.symbolic.scheduled import scheduled_equation as scheduled_equation
    from modeq.symbolic.scheduled import scheduled_time_derivative_form as scheduled_time_derivative_form
    from modeq.symbolic.scheduled_forms import ScheduledEquation as ScheduledEquation
    from modeq.symbolic.scheduled_forms import ScheduledTimeDerivativeForm as ScheduledTimeDerivativeForm
    from modeq.symbolic.state_space import StateSpaceForm as StateSpaceForm
    from modeq.symbolic.state_space import state_space_form as state_space_form
    from modeq.symbolic.stochastic import StochasticEquation as StochasticEquation
    from modeq.symbolic.stochastic import stochastic_equation as stochastic_equation
    from modeq.symbolic.temporal import TimeDerivativeForm as TimeDerivativeForm
    from modeq.symbolic.temporal import time_derivative_form as time_derivative_form
    from modeq.symmetry.affine_charges import AffineSymmetry as AffineSymmetry
    from modeq.symmetry.balance import Balance as Balance
    from modeq.symmetry.balance import balance as balance
    from modeq.symmetry.charge_equation import ChargeEquation as ChargeEquation
    from modeq.symmetry.charges import DiagonalSymmetry as DiagonalSymmetry
    from modeq.symmetry.charges import Rescale as Rescale
    from modeq.symmetry.charges import Scale as Scale
    from modeq.symmetry.charges import Translation as Translation
    from modeq.symmetry.continuous import damping_regime as damping_regime
    from modeq.symmetry.counting import count_conservation_laws as count_conservation_laws
    from modeq.symmetry.equilibrium import Equilibrium as Equilibrium
    from modeq.symmetry.equilibrium import equilibrium as equilibrium
    from modeq.symmetry.finding import find_charges as find_charges
    from modeq.symmetry.found import Charges as Charges
    from modeq.symmetry.laws import SGDStep as SGDStep
    from modeq.symmetry.matrix_charges import GeneralLinear as GeneralLinear
    from modeq.symmetry.matrix_charges import Rotation as Rotation
    from modeq.symmetry.noise import GradientNoise as GradientNoise
    from modeq.symmetry.noise import gradient_noise as gradient_noise
    from modeq.symmetry.projection import project as project
    from modeq.symmetry.tracking import Tracker as Tracker
    from modeq.symmetry.tracking import track as track
    from modeq.symmetry.verification import Verification as Verification
    from modeq.symmetry.verification import verify as verify
