//! What a ceremony says, in the languages it speaks.

use clap::ValueEnum;

/// The language of a ceremony.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// English.
    En,
    /// Japanese.
    Ja,
}

impl Language {
    /// The first words.
    pub(crate) fn opening(self, what: &str, custodians: usize) -> String {
        match self {
            Self::En => format!(
                "{what}. Custodians: {custodians}.\n\
                 Each comes alone to the screen. What is typed is not shown. Ctrl-C gives up: nothing is left behind."
            ),
            Self::Ja => format!(
                "{what}。管理者：{custodians} 名。\n\
                 管理者は一人ずつ画面の前に来てください。入力は表示されません。Ctrl-C で中止でき、何も残りません。"
            ),
        }
    }

    /// A key is made.
    pub(crate) fn making(self, key: &str, kind: &str) -> String {
        match self {
            Self::En => format!("A key is made: {key} ({kind})"),
            Self::Ja => format!("鍵 {key}（{kind}）を作成します"),
        }
    }

    /// A key that is in the HSM is registered.
    pub(crate) fn registering(self, key: &str) -> String {
        match self {
            Self::En => format!("A key in the HSM is registered for real cards: {key}"),
            Self::Ja => format!("HSM 内の鍵 {key} を本番用に登録します"),
        }
    }

    /// A key is destroyed.
    pub(crate) fn destroying(self, key: &str) -> String {
        match self {
            Self::En => format!("A key is destroyed: {key}"),
            Self::Ja => format!("鍵 {key} を廃棄します"),
        }
    }

    /// An initial key leaves.
    pub(crate) fn exporting(self, device: &str, kbpk: &str) -> String {
        match self {
            Self::En => format!("The initial key of the device {device} leaves the HSM under {kbpk}"),
            Self::Ja => format!("端末 {device} の初期鍵を {kbpk} で保護して取り出します"),
        }
    }

    /// The keys every server needs are made.
    pub(crate) fn service_keys(self) -> String {
        match self {
            Self::En => "The keys every server needs are made in the HSM: vault root, fingerprint, audit".to_owned(),
            Self::Ja => "サーバー共通の鍵（保管庫ルート鍵、指紋鍵、監査鍵）を HSM 内で作成します".to_owned(),
        }
    }

    /// They were made.
    pub(crate) fn service_keys_made(self) -> &'static str {
        match self {
            Self::En => "Vault root, fingerprint and audit key are in the HSM.",
            Self::Ja => "保管庫ルート鍵、指紋鍵、監査鍵を HSM に作成しました。",
        }
    }

    /// The next vault keys are made.
    pub(crate) fn rotating(self, generation: u32) -> String {
        match self {
            Self::En => format!(
                "Vault root and fingerprint key of generation {generation} are made in the HSM, and every card number is \
                 sealed anew"
            ),
            Self::Ja => format!(
                "第 {generation} 世代の保管庫ルート鍵と指紋鍵を HSM 内で作成し、すべてのカード番号を再封緘します"
            ),
        }
    }

    /// The custodians are done.
    pub(crate) fn rotation_begins(self) -> &'static str {
        match self {
            Self::En => "The keys are made, and custodians are not needed any more. Card numbers are sealed anew:",
            Self::Ja => "鍵を作成しました。管理者の作業は終わりです。カード番号を再封緘しています：",
        }
    }

    /// Old vault keys are destroyed.
    pub(crate) fn retiring(self, generation: u32) -> String {
        match self {
            Self::En => format!("Vault root and fingerprint key of generation {generation} are destroyed"),
            Self::Ja => format!("第 {generation} 世代の保管庫ルート鍵と指紋鍵を廃棄します"),
        }
    }

    /// They are gone.
    pub(crate) fn retired(self, generation: u32) -> String {
        match self {
            Self::En => format!("The vault keys of generation {generation} are destroyed."),
            Self::Ja => format!("第 {generation} 世代の保管庫鍵を廃棄しました。"),
        }
    }

    /// Whose turn it is.
    pub(crate) fn turn(self, number: usize, of: usize) -> String {
        match self {
            Self::En => format!("Custodian {number} of {of}. Is nobody else able to see the screen and the keys?"),
            Self::Ja => format!("管理者 {number}／{of} 人目です。画面と手元は他の人から見えませんか。"),
        }
    }

    /// Asks for a certificate.
    pub(crate) fn certificate(self) -> &'static str {
        match self {
            Self::En => "Your certificate (file):",
            Self::Ja => "証明書のファイル：",
        }
    }

    /// Asks for its private key.
    pub(crate) fn private_key(self) -> &'static str {
        match self {
            Self::En => "Its private key (file):",
            Self::Ja => "その秘密鍵のファイル：",
        }
    }

    /// Greets whoever was recognised.
    pub(crate) fn welcome(self, name: &str) -> String {
        match self {
            Self::En => format!("Welcome, {name}."),
            Self::Ja => format!("{name} さんを確認しました。"),
        }
    }

    /// Asks for a component.
    pub(crate) fn component(self, digits: usize) -> String {
        match self {
            Self::En => format!("Your component, {digits} hex digits (not shown):"),
            Self::Ja => format!("鍵コンポーネント（16 進 {digits} 桁、表示されません）："),
        }
    }

    /// Gives a component away.
    pub(crate) fn write_down(self) -> &'static str {
        match self {
            Self::En => "Your component. Write it down; it is not shown again:",
            Self::Ja => "鍵コンポーネントです。書き写してください。再表示はできません：",
        }
    }

    /// And its check value.
    pub(crate) fn with_kcv(self, kcv: &str) -> String {
        match self {
            Self::En => format!("Its check value: {kcv}"),
            Self::Ja => format!("その検査値（KCV）：{kcv}"),
        }
    }

    /// Asks whether it is on paper.
    pub(crate) fn written_down(self) -> &'static str {
        match self {
            Self::En => "Press Enter when it is on paper. You will type it once to prove it.",
            Self::Ja => "書き写したら Enter を押してください。確認のため一度入力していただきます。",
        }
    }

    /// Asks for the check value of a component.
    pub(crate) fn component_kcv(self) -> &'static str {
        match self {
            Self::En => "Its check value, as it stands beside it:",
            Self::Ja => "その検査値（KCV）：",
        }
    }

    /// A component was typed wrong.
    pub(crate) fn again(self, why: &str) -> String {
        match self {
            Self::En => format!("Not taken: {why}. Once more."),
            Self::Ja => format!("受け付けられません（{why}）。もう一度入力してください。"),
        }
    }

    /// Component and check value do not belong together.
    pub(crate) fn kcv_differs(self) -> &'static str {
        match self {
            Self::En => "the component does not have this check value",
            Self::Ja => "コンポーネントと検査値が一致しません",
        }
    }

    /// A file is not what it should be.
    pub(crate) fn unreadable(self) -> &'static str {
        match self {
            Self::En => "there is no certificate, or no private key for you alone, in these files",
            Self::Ja => "証明書か、本人だけが読める秘密鍵が見つかりません",
        }
    }

    /// Another component was typed than was shown.
    pub(crate) fn another(self) -> &'static str {
        match self {
            Self::En => "this is not the component that was shown",
            Self::Ja => "表示したコンポーネントと違います",
        }
    }

    /// A component was taken.
    pub(crate) fn taken(self) -> &'static str {
        match self {
            Self::En => "Taken. Put your component away; press Enter, and the screen is emptied for the next.",
            Self::Ja => "受け付けました。コンポーネントを片付け、Enter を押すと画面が消えます。",
        }
    }

    /// Asks for the check value of the whole key.
    pub(crate) fn key_kcv(self) -> &'static str {
        match self {
            Self::En => "All custodians: the check value the whole key must have:",
            Self::Ja => "全員で確認してください。鍵全体の検査値（KCV）：",
        }
    }

    /// The last words of a key.
    pub(crate) fn destroyed(self, key: &str) -> String {
        match self {
            Self::En => format!("The key {key} is destroyed."),
            Self::Ja => format!("鍵 {key} を廃棄しました。"),
        }
    }

    /// The last words.
    pub(crate) fn done(self, kcv: &str) -> String {
        match self {
            Self::En => format!("The key is in the HSM. Its check value is {kcv}."),
            Self::Ja => format!("鍵を HSM に登録しました。検査値（KCV）は {kcv} です。"),
        }
    }
}
