"""Other ways for the same chunks than the broker: HTTP(S), a Kafka topic, files on a stick that somebody carries.

`base` is the contract of what delivers, `driver` moves the buffer's chunks through one of them. Imports nothing: what
a device does not use costs it nothing.
"""
