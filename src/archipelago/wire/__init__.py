"""Bytes on the wire: framing and codecs. Never pickle."""
