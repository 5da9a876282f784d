"""Viewers: each turns one Report into one form. They read the report object and the timeline, never the recording.

terminal.show(report, out, width=None)   one screen of text, written to a text stream
json.render(report)                      a JSON text with a schema version
html.render(report, timeline)            one self-contained page, as text

A new viewer is one file here and its flag in profiler/commands/report.py.
"""
