// What tracks are called, as the service's answers have said.
const known = new Map();

/** Notes the names of `tracks`, {track, title, artist}, where they are given. */
export function learn(tracks = []) {
  for (const { track, title, artist } of tracks) {
    if (title || artist) known.set(track, [title, artist].filter(Boolean).join(" · "));
  }
}

/** Title and artist of a track, or its id where neither is known. */
export const nameOf = (track) => known.get(track) ?? track;
