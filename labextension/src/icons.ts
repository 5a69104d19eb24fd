// The extension's icon: a lifebuoy.

import { LabIcon } from "@jupyterlab/ui-components";

import lifebuoy from "../style/icon.svg";

export const lifebuoyIcon = new LabIcon({ name: "resilient_nb:lifebuoy", svgstr: lifebuoy });
