// What tracks are called, as the service's answers have said.
import { element } from "./elements.js";

const known = new Map();

/** Notes the names of `tracks`, {track, title, artist}, where they are given. */
export function learn(tracks = []) {
  for (const { track, title, artist } of tracks) {
    if (title || artist) known.set(track, { title, artist });
  }
}

/** The title of a track, or its id. */
export const titleOf = (track) => known.get(track)?.title ?? track;
const artistOf = (track) => known.get(track)?.artist;

/** Title and artist, as far as they are known. */
export const nameOf = (track) => (artistOf(track) ? `${titleOf(track)} · ${artistOf(track)}` : titleOf(track));

/** The same as children of an element, the artist small. */
export const named = (track) => (artistOf(track) ? [titleOf(track), " ", element("small", {}, artistOf(track))] : [titleOf(track)]);
