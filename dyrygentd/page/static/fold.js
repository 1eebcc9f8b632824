// A folded workflow, kept as it is: told of the boxes that change, and asked for anew by whoever was away.
import { useEffect, useMemo, useRef, useState } from "./html.js";
import { of, refusalOf, usePolled, withQuery } from "./api.js";
import { isFinished } from "./parts.js";

/** After a stream that ended without a word. */
const PAUSE_MS = 3000;
/** How often it is asked for where it is not streamed: by a daemon that is older, and where all places for that are taken. */
export const POLL_MS = { older: 2000, crowded: 10000 };
/** After so long a place may be free again. */
const CROWDED_MS = 60000;

/** What an event has changed, or null if something was missed. */
function changed(fold, told) {
  if (!fold || told.seq <= fold.seq || !told.boxes.every(({ place }) => place < fold.boxes.length)) return null;
  const boxes = fold.boxes.slice();
  for (const { place, box } of told.boxes) boxes[place] = box;
  return { ...fold, boxes, seq: told.seq, state: told.state };
}

/** A node that is done by a workflow of its own is a box that counts what is in that, and is opened into it. */
function withChild(box) {
  const { child } = box;
  if (!child) return box;
  const hold = box.hold === "child" ? `workflow ${child.state}${child.waits_for_person ? ", waits for a person" : ""}` : box.hold;
  return { ...box, kind: "child", states: child.counts, nodes: child.tasks, hold };
}

/** How often a workflow that had finished has begun to run again. */
function useRounds(state) {
  const kept = useRef({ state, rounds: 0 }).current;
  if (state && isFinished(kept.state) && !isFinished(state)) kept.rounds += 1;
  kept.state = state ?? kept.state;
  return kept.rounds;
}

/**
 * `{fold, error, again, crowded}` of a box; nothing is asked without a reference. `state` is that of the workflow, as far as it is known.
 * `crowded` says why it is not streamed, if it is asked for now and then instead.
 */
export function useFold(reference, path, state) {
  const target = reference && withQuery(of(reference, "fold"), { path });
  const [known, setKnown] = useState({});
  const [way, setWay] = useState({ word: "stream" });
  const [tries, setTries] = useState(0);
  const rounds = useRounds(state);
  const mine = known.target === target ? known : {};
  const polled = usePolled(way.word === "stream" ? "" : target, POLL_MS[way.word]);
  useEffect(() => {
    if (polled.data) setKnown({ target, fold: polled.data });
  }, [polled.data]);
  useEffect(() => {
    if (!target || way.word === "older") return undefined;
    if (way.word === "crowded") {
      const later = setTimeout(() => setWay({ ...way, word: "stream" }), CROWDED_MS);
      return () => clearTimeout(later);
    }
    const address = withQuery(of(reference, "fold", "events"), { path });
    let source = null;
    let timer = 0;
    let fold = null;
    const stop = () => {
      clearTimeout(timer);
      source?.close();
      source = null;
    };
    const take = (it) => {
      if (!fold) setWay({ word: "stream" });
      fold = it;
      setKnown({ target, fold });
    };
    const fail = (error) => setKnown((before) => ({ ...(before.target === target ? before : {}), target, error }));
    const refused = async (from) => {
      const error = await refusalOf(address);
      // Meanwhile another box may have been opened, or the page is not seen any more.
      if (source !== from) return;
      stop();
      if (error?.code === "older") setWay({ word: "older" });
      else if (["too-busy", "too-many-of-yours"].includes(error?.code)) setWay({ word: "crowded", why: error.detail });
      else if (error) fail(error);
      if (!error || error.status >= 500 || error.code === "unreachable") timer = setTimeout(open, PAUSE_MS);
    };
    const open = () => {
      stop();
      if (document.hidden) return;
      fold = null;
      source = new EventSource(address);
      source.addEventListener("fold", (event) => take(JSON.parse(event.data)));
      source.addEventListener("boxes", (event) => {
        const next = changed(fold, JSON.parse(event.data));
        if (next) take(next);
        else open();
      });
      source.addEventListener("end", stop);
      source.addEventListener("bye", () => { stop(); timer = setTimeout(open, PAUSE_MS); });
      source.addEventListener("error", (event) => {
        if (event.data) {
          stop();
          const { detail, next_step: next, code } = JSON.parse(event.data);
          fail({ detail, next, code });
        } else if (source?.readyState === EventSource.CLOSED) refused(source);
      });
    };
    const seen = () => (document.hidden ? stop() : open());
    document.addEventListener("visibilitychange", seen);
    open();
    return () => {
      document.removeEventListener("visibilitychange", seen);
      stop();
    };
  }, [target, way.word, tries, rounds]);
  const isPolled = way.word !== "stream";
  const fold = useMemo(() => mine.fold && { ...mine.fold, boxes: mine.fold.boxes.map(withChild) }, [mine.fold]);
  return {
    fold,
    error: isPolled ? polled.error : mine.error,
    again: isPolled ? polled.again : () => setTries(tries + 1),
    crowded: way.why ?? "",
  };
}
