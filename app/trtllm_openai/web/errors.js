// Errors in words.

import { ApiError } from "./api.js";
import { t } from "./i18n.js";

/** An error as a sentence, with what helps to find it. */
export function described(error) {
  if (!(error instanceof ApiError)) return String(error.message ?? error);
  if (error.status === 0) return t("error.network", { message: error.message });
  const more = [
    error.param && t("error.param", { param: error.param }),
    error.requestId && t("error.request", { id: error.requestId }),
  ];
  return [error.message, ...more.filter(Boolean)].join(" · ");
}
