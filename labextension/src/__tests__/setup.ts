// What jsdom lacks and Lumino's widgets ask for when they are loaded.

globalThis.DragEvent ??= class extends MouseEvent {} as typeof DragEvent;
