"""Every test may make messages, as the processes do that Flower starts."""

from protocol.transport import send_as

send_as(run=1, node=1)
