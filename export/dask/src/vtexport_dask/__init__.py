# SPDX-License-Identifier: MPL-2.0

"""Runs the chunks of vtexport on the workers of a Dask cluster.

A bridge: vtexport says which chunks it wants, Dask says where they run. Plans, attempts and what
is made are vtexport's alone.
"""

# The same on every machine: a worker refuses the tasks of another version.
__version__ = "0.1.0"
