// Where a notebook is for the Jupyter server. Pure.

import { PathExt } from "@jupyterlab/coreutils";

/**
 * Return a path as the Jupyter server knows it; null if it isn't below the server's root.
 *
 * @param path - of a notebook: relative to the root, or absolute on the server's machine.
 * @param root - the server's root folder; "" if that isn't told.
 */
export function served(path: string, root: string): string | null {
  if (!path.startsWith("/")) {
    return path === "" ? null : path;
  }
  const relative = root.startsWith("/") ? PathExt.relative(root, path) : "..";
  return relative === "" || relative.startsWith("..") ? null : relative;
}
