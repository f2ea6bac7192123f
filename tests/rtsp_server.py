"""An RTSP camera of GStreamer's test pictures. A script for the system's Python, which has GStreamer's bindings:

    /usr/bin/python3 tests/rtsp_server.py --port 8554 --width 320 --height 240 --fps 25

Serves rtsp://127.0.0.1:PORT/cam and says `ready` on standard output once it listens.
"""

import argparse

import gi  # type: ignore[import-not-found]  # of the system's Python

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # type: ignore[import-not-found]  # noqa: E402  # versions first

CODECS = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max={fps} ! rtph264pay name=pay0 pt=96",
    "jpeg": "jpegenc ! rtpjpegpay name=pay0 pt=26",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--codec", choices=CODECS, default="h264")
    parser.add_argument("--pattern", default="ball")
    parser.add_argument("--password", default="", help="asked of the user `viewer`")
    return parser.parse_args()


def demand_password(server: GstRtspServer.RTSPServer, factory: GstRtspServer.RTSPMediaFactory, password: str) -> None:
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic("viewer", password), token)
    server.set_auth(auth)
    factory.add_role_from_structure(
        Gst.Structure.from_string("viewer, media.factory.access=true, media.factory.construct=true")[0]
    )


def main() -> None:
    asked = arguments()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(asked.port))
    factory = GstRtspServer.RTSPMediaFactory()
    raw = f"video/x-raw,format=I420,width={asked.width},height={asked.height},framerate={asked.fps}/1"
    codec = CODECS[asked.codec].format(fps=asked.fps)
    factory.set_launch(f"( videotestsrc is-live=true pattern={asked.pattern} ! {raw} ! {codec} )")
    # Shared among viewers, one that comes while another goes aborts the server (gst_rtsp_media_get_rates).
    factory.set_shared(False)
    if asked.password:
        demand_password(server, factory, asked.password)
    server.get_mount_points().add_factory("/cam", factory)
    if server.attach(None) == 0:
        raise SystemExit(f"cannot listen on port {asked.port}")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
