#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Encodes the picture of a file in parallel: encode.py INPUT OUTPUT.mkv

Shows progress, says what went wrong, and ends with a playable file at Ctrl-C.
"""

import signal
import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402


class App:
    def __init__(self, source: str, target: str) -> None:
        self.failed = self.interrupted = False
        self.loop = GLib.MainLoop()
        self.pipeline = Gst.parse_launch(
            "filesrc name=from ! decodebin ! queue ! videoconvert ! "
            'vtparallelenc encoder="x264enc pass=qual quantizer=23" ! '
            "h264parse ! matroskamux ! filesink name=to"
        )
        self.pipeline.get_by_name("from").set_property("location", source)
        self.pipeline.get_by_name("to").set_property("location", target)
        bus = self.pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message", self.on_message)

    def on_message(self, _bus: Gst.Bus, message: Gst.Message) -> None:
        structure = message.get_structure()
        if message.type == Gst.MessageType.EOS:
            self.loop.quit()
        elif message.type == Gst.MessageType.ERROR:
            error, _debug = message.parse_error()
            self.say(f"{message.src.get_name()}: {error.message}")
            self.failed = True
            self.loop.quit()
        elif message.type == Gst.MessageType.WARNING:
            error, _debug = message.parse_warning()
            self.say(f"Warning: {error.message}")
        elif structure and structure.get_name() == "vtparallelenc-progress":
            self.show(structure)
        elif structure and structure.get_name() == "vtparallelenc-sequential":
            self.say(f"One encoder: {structure.get_string('text')}")

    def show(self, progress: Gst.Structure) -> None:
        rate = progress.get_value("average-frames-per-second")
        text = f"{progress.get_value('frames-done')} frames, {rate:.1f} frames/s"
        # Where the length is known.
        if progress.has_field("fraction"):
            text += f", {progress.get_value('fraction'):.0%}"
        if progress.has_field("time-left"):
            text += f", {progress.get_value('time-left') / 1e9:.0f} s left"
        self.say(text)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)

    def on_interrupt(self) -> bool:
        """Once: what has come is encoded, and the file is finished. Twice: at once."""
        if self.interrupted:
            self.failed = True
            self.loop.quit()
        self.interrupted = True
        self.pipeline.send_event(Gst.Event.new_eos())
        return GLib.SOURCE_CONTINUE

    def run(self) -> int:
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGINT, self.on_interrupt)
        self.pipeline.set_state(Gst.State.PLAYING)
        self.loop.run()
        self.pipeline.set_state(Gst.State.NULL)
        return 1 if self.failed else 0


def main() -> int:
    Gst.init(None)
    if len(sys.argv) != 3:
        print("Usage: encode.py INPUT OUTPUT.mkv", file=sys.stderr)
        return 2
    try:
        return App(sys.argv[1], sys.argv[2]).run()
    except GLib.Error as error:
        print(error.message, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
