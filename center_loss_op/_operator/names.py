"""Names of arguments that users of other losses write, and what they are called here."""
import inspect
from functools import wraps
from typing import Any, Callable, Collection, TypeVar, cast

__all__ = ['explained', 'unknown_argument']

F = TypeVar('F', bound=Callable[..., Any])

# Each line has our names first: of the operator and the graph, and of Gluon.
_MEANT = (
    ('num_class', 'classes', 'num_classes', 'n_classes', 'nclass', 'num_cls', 'class_num',
     'nrof_classes'),
    ('alpha', 'lr_cent', 'center_lr', 'lr_center', 'lr', 'learning_rate', 'alfa'),
    ('scale', 'weight', 'lambda', 'lambda_', 'lambda_c', 'lamda', 'lambd', 'lam', 'loss_weight',
     'center_weight', 'grad_scale', 'lmbd', 'ratio', 'weight_cent'),
    ('in_units', 'feat_dim', 'feature_dim', 'feature_size', 'embedding_size', 'embedding_dim',
     'embed_dim', 'dim', 'num_features'),
)
_FOUND_OUT = ': leave it out, the size of the features is that of the data'


def _hint(name, allowed):
    for names in _MEANT:
        if name in names:
            ours = [known for known in names if known in allowed]
            if ours:
                return f', did you mean {ours[0]}?'
            if names[0] == 'in_units':
                return _FOUND_OUT
    return ''


def unknown_argument(name: str, allowed: Collection[str]) -> TypeError:
    """The error about an argument called `name`; it says what the user meant, if that is known."""
    return TypeError(f'unknown argument {name!r}{_hint(name, allowed)}; allowed are: '
                     f'{", ".join(allowed)}')


def explained(function: F) -> F:
    """Decorate a function: an error about a name, or a place, of an argument says what is right.

    Python's own error comes before the body of the function, and does not know what was meant.
    """
    parameters = list(inspect.signature(function).parameters.values())
    allowed = [each.name for each in parameters
               if each.name != 'self' and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    by_name = [each.name for each in parameters if each.kind == each.KEYWORD_ONLY]
    places = len(parameters) - len(by_name) - any(
        each.kind == each.VAR_KEYWORD for each in parameters)

    @wraps(function)
    def checked(*args, **kwargs):
        for name in kwargs:
            if name not in allowed and _hint(name, allowed):
                raise unknown_argument(name, allowed)
        if by_name and len(args) > places:
            choices = ' or '.join(f'{name}={args[places]!r}' for name in by_name[:2])
            raise TypeError(f'{args[places]!r} needs its name, such as {choices}; by name are: '
                            f'{", ".join(by_name)}')
        return function(*args, **kwargs)
    return cast(F, checked)
