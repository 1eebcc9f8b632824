// A folded workflow, kept as it is: told of the boxes that change, and asked for anew by whoever was away.
import { useEffect, useState } from "./html.js";
import { get, of, usePolled, withQuery } from "./api.js";

/** After a stream that ended without a word. */
const PAUSE_MS = 3000;

/** What an event has changed, or null if something was missed. */
function changed(fold, told) {
  if (!fold || told.seq <= fold.seq || !told.boxes.every(({ place }) => place < fold.boxes.length)) return null;
  const boxes = fold.boxes.slice();
  for (const { place, box } of told.boxes) boxes[place] = box;
  return { ...fold, boxes, seq: told.seq, state: told.state };
}

/** `{fold, error, again}` of a box. `state` of the workflow: when a finished one runs again, it is followed again. */
export function useFold(reference, path, state) {
  const [known, setKnown] = useState({});
  const [isOld, setOld] = useState(false);
  // A daemon that does not stream is asked again and again.
  const polled = usePolled(isOld ? withQuery(of(reference, "fold"), { path }) : "", 2000);
  useEffect(() => {
    if (isOld) return undefined;
    let source = null;
    let timer = 0;
    let fold = null;
    const stop = () => {
      clearTimeout(timer);
      source?.close();
      source = null;
    };
    const open = () => {
      stop();
      if (document.hidden) return;
      fold = null;
      source = new EventSource(withQuery(of(reference, "fold", "events"), { path }));
      source.addEventListener("fold", (event) => setKnown({ fold: (fold = JSON.parse(event.data)) }));
      source.addEventListener("boxes", (event) => {
        fold = changed(fold, JSON.parse(event.data));
        if (fold) setKnown({ fold });
        else open();
      });
      source.addEventListener("end", stop);
      source.addEventListener("bye", () => { stop(); timer = setTimeout(open, PAUSE_MS); });
      source.addEventListener("error", async (event) => {
        const refused = event.data ? JSON.parse(event.data) : null;
        if (refused) {
          stop();
          setKnown((before) => ({ ...before, error: { detail: refused.detail, next: refused.next_step, code: refused.code } }));
        } else if (source?.readyState === EventSource.CLOSED) {
          stop();
          // A stream does not say why it was refused.
          const error = await get(of(reference, "fold"), { path }).then(() => null, (reason) => reason);
          if (!error || error.code === "older") setOld(true);
          else setKnown((before) => ({ ...before, error }));
          if (error?.status >= 500 || error?.code === "unreachable") timer = setTimeout(open, PAUSE_MS);
        }
      });
    };
    const seen = () => (document.hidden ? stop() : open());
    document.addEventListener("visibilitychange", seen);
    open();
    return () => {
      document.removeEventListener("visibilitychange", seen);
      stop();
    };
  }, [reference, path, isOld, state]);
  return isOld ? { fold: polled.data, error: polled.error, again: polled.again } : { ...known, again: () => setOld(true) };
}
