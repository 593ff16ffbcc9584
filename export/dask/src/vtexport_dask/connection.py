# SPDX-License-Identifier: MPL-2.0

"""A connection to the scheduler, or one sentence that says why there is none."""

import ssl

from distributed import Client
from distributed.comm.core import CommClosedError, FatalCommClosedError

from .task import TRY_AGAIN, USAGE, Refused

TLS = "DASK_DISTRIBUTED__COMM__TLS__CA_FILE, …__CLIENT__CERT and …__CLIENT__KEY"


async def connect(address: str, seconds: float) -> Client:
    """Dask tries until somebody answers or the time is over. TLS is as Dask's configuration says."""
    try:
        client = Client(address, asynchronous=True, timeout=seconds, set_as_default=False)
    except OSError as error:
        text = f"Dask's configuration of TLS for {address} can't be used: {error}"
        raise Refused(USAGE, text) from error
    try:
        return await client
    except Exception as error:
        raise refused(address, error) from error
    finally:
        if client.status != "running":
            await client.close()


def refused(address: str, error: Exception) -> Refused:
    match error:
        case TypeError():
            text = f"{address} needs a certificate: set {TLS}"
        case FatalCommClosedError() | ssl.SSLError():
            text = f"{address} and this machine don't trust each other: check {TLS} ({error})"
        case RuntimeError():
            text = f"{address} can't be used: {error}: use tls://"
        case ValueError() if address.startswith("tls:"):
            text = f"{address} can't be used: is it a scheduler with TLS? ({error})"
        case ValueError():
            text = f"{address} isn't an address of a scheduler: {error}"
        case CommClosedError() if address.startswith("tcp:"):
            text = f"{address} ends connections without TLS: use tls://, and set {TLS}"
        case _:
            text = f"no scheduler answers at {address}: is it running, and is that its address?"
            return Refused(TRY_AGAIN, text)
    return Refused(USAGE, text)
