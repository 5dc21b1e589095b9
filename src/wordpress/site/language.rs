//! Whether a site's own messages are in English, as far as it depends on files.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Sites;
use super::rows::Rows;
use crate::wordpress::language::Locale;

/// A check takes microseconds. If the file system hangs, WordPress answers.
const LIMIT: Duration = Duration::from_millis(500);

/// One check at a time, so that a file system that hangs blocks only one thread.
static LOOKS: Semaphore = Semaphore::const_new(1);

impl Sites {
    pub(super) async fn is_english(&self, rows: &Rows) -> bool {
        let locale = Locale::of(rows.text("WPLANG"), rows.meta_text("WPLANG"), &self.installation.language);
        if locale.is_english(None) && !matches!(locale, Locale::OfPackage) {
            return true;
        }
        let Some(packs) = self.installation.packs.clone() else { return locale.is_english(None) };
        let look = async {
            let alone = LOOKS.acquire().await.ok()?;
            let look = move || {
                let _alone = alone;
                locale.is_english(Some(&packs))
            };
            self.tasks.spawn_blocking(look).await.ok()
        };
        timeout(LIMIT, look).await.ok().flatten().unwrap_or(false)
    }
}
