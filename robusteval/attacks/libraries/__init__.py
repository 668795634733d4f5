"""Other libraries' attacks: each module here is one, and has its name in suites.

Imports none of them.
"""

from pkgutil import iter_modules

NAMES = tuple(module.name for module in iter_modules(__path__))
