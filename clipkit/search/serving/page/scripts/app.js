// Starts the parts of the page. The state is read last, so that all of them see it.
import { startDetail } from "./detail.js";
import { startFilters } from "./filters.js";
import { startFind } from "./find.js";
import { startKeyboard } from "./keyboard.js";
import { startMap } from "./map.js";
import { startQuery } from "./query.js";
import { startResults } from "./results.js";
import { start } from "./state.js";
import { startTheme } from "./theme.js";
import { startUpload } from "./upload.js";
import { startViews } from "./views.js";

startTheme();
startViews();
startQuery();
startUpload();
startFilters();
startFind();
startDetail();
startMap();
start();
startResults();
startKeyboard();
