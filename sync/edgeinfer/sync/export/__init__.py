"""Results that somebody carries: written to a stick at the device, read at the console, and a receipt on the way back.

`layout` is what lies on the stick, `writing` and `reading` do it, `exporting` is the device's side of the way. The
export alone acknowledges nothing: only the console's signed receipt does (`receipts`).
"""
