"""The agent on the device: results up, wishes and packages down, over MQTT.

`service` is the command, `agent` the loop; `session` and `transfer` decide without I/O; `mqtt` is the link that
the console uses too; `messages` is the wire.
"""
