/* SPDX-License-Identifier: MPL-2.0
 *
 * Encodes the picture of a file in parallel: encode INPUT OUTPUT.mkv
 *
 *     cc -o encode encode.c $(pkg-config --cflags --libs gstreamer-1.0)
 *
 * Shows progress, says what went wrong, and ends with a playable file at Ctrl-C.
 */
#include <glib-unix.h>
#include <gst/gst.h>

typedef struct
{
  GMainLoop *loop;
  GstElement *pipeline;
  gboolean failed, interrupted;
} App;

static void
show_progress (const GstStructure * progress)
{
  gdouble fraction, rate;
  guint64 done, left;

  if (!gst_structure_get (progress, "frames-done", G_TYPE_UINT64, &done,
          "average-frames-per-second", G_TYPE_DOUBLE, &rate, NULL))
    return;
  g_printerr ("%" G_GUINT64_FORMAT " frames, %.1f frames/s", done, rate);
  /* Where the length is known. */
  if (gst_structure_get_double (progress, "fraction", &fraction))
    g_printerr (", %.0f %%", 100 * fraction);
  if (gst_structure_get_uint64 (progress, "time-left", &left))
    g_printerr (", %.0f s left", left / 1e9);
  g_printerr ("\n");
}

static gboolean
on_message (GstBus * bus, GstMessage * message, gpointer data)
{
  App *app = data;
  GError *error = NULL;
  gchar *debug = NULL;

  switch (GST_MESSAGE_TYPE (message)) {
    case GST_MESSAGE_EOS:
      g_main_loop_quit (app->loop);
      break;
    case GST_MESSAGE_ERROR:
      gst_message_parse_error (message, &error, &debug);
      g_printerr ("%s: %s\n", GST_OBJECT_NAME (message->src), error->message);
      app->failed = TRUE;
      g_main_loop_quit (app->loop);
      break;
    case GST_MESSAGE_WARNING:
      gst_message_parse_warning (message, &error, &debug);
      g_printerr ("Warning: %s\n", error->message);
      break;
    case GST_MESSAGE_ELEMENT:
      if (gst_message_has_name (message, "vtparallelenc-progress"))
        show_progress (gst_message_get_structure (message));
      else if (gst_message_has_name (message, "vtparallelenc-sequential"))
        g_printerr ("One encoder: %s\n",
            gst_structure_get_string (gst_message_get_structure (message),
                "text"));
      break;
    default:
      break;
  }
  g_clear_error (&error);
  g_free (debug);
  return G_SOURCE_CONTINUE;
}

/* Once: what has come is encoded, and the file is finished. Twice: at once. */
static gboolean
on_interrupt (gpointer data)
{
  App *app = data;

  if (app->interrupted) {
    app->failed = TRUE;
    g_main_loop_quit (app->loop);
  } else {
    app->interrupted = TRUE;
    gst_element_send_event (app->pipeline, gst_event_new_eos ());
  }
  return G_SOURCE_CONTINUE;
}

int
main (int argc, char **argv)
{
  App app = { NULL, };
  GstElement *element;
  GError *error = NULL;
  GstBus *bus;

  gst_init (&argc, &argv);
  if (argc != 3) {
    g_printerr ("Usage: encode INPUT OUTPUT.mkv\n");
    return 2;
  }
  app.pipeline = gst_parse_launch ("filesrc name=from ! decodebin ! queue ! "
      "videoconvert ! vtparallelenc encoder=\"x264enc pass=qual quantizer=23\" ! "
      "h264parse ! matroskamux ! filesink name=to", &error);
  if (error) {
    g_printerr ("%s\n", error->message);
    return 1;
  }
  element = gst_bin_get_by_name (GST_BIN (app.pipeline), "from");
  g_object_set (element, "location", argv[1], NULL);
  gst_object_unref (element);
  element = gst_bin_get_by_name (GST_BIN (app.pipeline), "to");
  g_object_set (element, "location", argv[2], NULL);
  gst_object_unref (element);

  app.loop = g_main_loop_new (NULL, FALSE);
  bus = gst_element_get_bus (app.pipeline);
  gst_bus_add_watch (bus, on_message, &app);
  g_unix_signal_add (SIGINT, on_interrupt, &app);
  gst_element_set_state (app.pipeline, GST_STATE_PLAYING);
  g_main_loop_run (app.loop);
  gst_element_set_state (app.pipeline, GST_STATE_NULL);

  gst_bus_remove_watch (bus);
  gst_object_unref (bus);
  gst_object_unref (app.pipeline);
  g_main_loop_unref (app.loop);
  return app.failed ? 1 : 0;
}
