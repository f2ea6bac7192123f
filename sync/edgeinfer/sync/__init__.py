"""The agent on the device: results and files up, wishes, packages and commands down, over MQTT.

`service` is the command, `agent` the loop, `parts` one turn of it; `session`, `transfer`, `blob_upload` and `budget`
decide without I/O; `way` is what any way up for results is; `mqtt` is the link that the console uses too; `messages` is
the wire.
"""
